"""An HTTP server for engines without one: OpenAI's streaming completions on token ids.

Runs as a script in the engine's Python environment and needs only the standard library and the engine:

    python wrapper.py ENGINE MODEL --port N --threads N [--cache-gb N] [--dtype NAME]

One thread serves HTTP, one runs the engine. The tokens of an iteration are sent at once, one chunk per request, with
as little work in Python as possible.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

OPENING = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nConnection: close\r\n\r\n"
GATHER_SECONDS = 0.005
"""Seconds that a static batch waits for the next request."""
MAX_BATCHED_TOKENS = 256
"""Maximum tokens of an iteration of OpenVINO; more is slower on a CPU."""


class StreamJob:
    """One request: its prompt, requested and generated tokens, and its connection."""

    def __init__(self, prompt: list[int], wanted: int, writer: asyncio.StreamWriter) -> None:
        self.prompt = prompt
        self.wanted = wanted
        self.writer = writer
        self.got = 0
        self.done = asyncio.Event()

    def tokens(self, ids: list[int]) -> None:
        """Send tokens, and end the stream after the last; runs in the HTTP thread."""
        ids = ids[: self.wanted - self.got]
        if not ids or self.done.is_set():
            return
        self.got += len(ids)
        self._write('{"choices":[{"index":0,"text":"","token_ids":' + str(ids) + ',"finish_reason":null}]}')
        if self.got == self.wanted:
            self._write('{"choices":[{"index":0,"text":"","token_ids":[],"finish_reason":"length"}]}')
            usage = {"prompt_tokens": len(self.prompt), "completion_tokens": self.got}
            self._write(json.dumps({"choices": [], "usage": usage}))
            self._write("[DONE]")
            self.done.set()

    def fail(self, message: str) -> None:
        """End the stream with an error."""
        self._write(json.dumps({"error": {"message": message}}))
        self.done.set()

    def _write(self, data: str) -> None:
        if not self.writer.is_closing():
            self.writer.write(b"data: " + data.encode() + b"\n\n")


Deliver = Callable[[list[tuple[StreamJob, list[int]]]], None]


class HttpServer:
    """An HTTP server with a queue of jobs for the engine's thread."""

    def __init__(self) -> None:
        self.jobs: queue.SimpleQueue[StreamJob] = queue.SimpleQueue()
        self.loop = asyncio.new_event_loop()

    def deliver(self, outputs: list[tuple[StreamJob, list[int]]]) -> None:
        """Deliver the tokens of an iteration; called in the engine's thread."""
        self.loop.call_soon_threadsafe(_send_tokens, outputs)

    def fail(self, job: StreamJob, error: BaseException) -> None:
        """End a request with an error; called in the engine's thread."""
        self.loop.call_soon_threadsafe(job.fail, f"{type(error).__name__}: {error}")

    def serve(self, port: int, run: Callable[[HttpServer], None]) -> None:
        """Serve until killed; `run` is the engine's loop, in its own thread."""
        threading.Thread(target=self._run_or_end, args=(run,), daemon=True).start()
        asyncio.set_event_loop(self.loop)
        server = self.loop.run_until_complete(asyncio.start_server(self._connection, "127.0.0.1", port))
        print(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        self.loop.run_forever()

    def _run_or_end(self, run: Callable[[HttpServer], None]) -> None:
        """Run the engine; an error ends the process, so that clients see their streams end."""
        try:
            run(self)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            lengths = [line.split(":")[1] for line in head if line.lower().startswith("content-length:")]
            body = await reader.readexactly(int(lengths[0])) if lengths else b""
            if head[0].startswith("POST"):
                await self._completion(json.loads(body), writer)
            else:
                writer.write(OPENING % b"application/json" + b'{"data":[{"id":"model"}]}')
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _completion(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        job = StreamJob(body["prompt"], body["max_tokens"], writer)
        writer.write(OPENING % b"text/event-stream")
        self.jobs.put(job)
        await job.done.wait()
        await writer.drain()


def _send_tokens(outputs: list[tuple[StreamJob, list[int]]]) -> None:
    for job, ids in outputs:
        job.tokens(ids)


def openvino(args: argparse.Namespace) -> Callable[[HttpServer], None]:
    """OpenVINO GenAI's continuous batching, without a prefix cache."""
    numpy, ov = importlib.import_module("numpy"), importlib.import_module("openvino")
    genai = importlib.import_module("openvino_genai")
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = args.cache_gb
    scheduler.enable_prefix_caching = False
    scheduler.max_num_batched_tokens = MAX_BATCHED_TOKENS
    scheduler.dynamic_split_fuse = True
    settings = {"INFERENCE_NUM_THREADS": args.threads}
    pipeline = genai.ContinuousBatchingPipeline(args.model, scheduler, "CPU", settings)

    def add(number: int, job: StreamJob) -> Any:
        config = genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = job.wanted
        config.ignore_eos, config.do_sample, config.num_beams = True, False, 1
        config.apply_chat_template = False
        ids = ov.Tensor(numpy.array([job.prompt], dtype=numpy.int64))
        return pipeline.add_request(number, ids, config)

    def run(server: HttpServer) -> None:
        open_jobs: list[tuple[StreamJob, Any]] = []
        number = 0
        while True:
            while not open_jobs or not server.jobs.empty():
                job = server.jobs.get()
                number += 1
                try:
                    open_jobs.append((job, add(number, job)))
                except Exception as error:
                    server.fail(job, error)
            pipeline.step()
            readable = [(job, handle.read()) for job, handle in open_jobs if handle.can_read()]
            server.deliver(
                [(job, [i for part in parts.values() for i in part.generated_ids]) for job, parts in readable]
            )
            for job, handle in open_jobs:
                if handle.get_status() == genai.GenerationStatus.IGNORED:
                    server.fail(job, MemoryError("not enough memory for keys and values"))
            open_jobs = [pair for pair in open_jobs if pair[1].get_status() == genai.GenerationStatus.RUNNING]

    return run


def transformers(args: argparse.Namespace) -> Callable[[HttpServer], None]:
    """transformers' `generate` on static batches: all waiting requests, until the longest has finished."""
    torch, library = importlib.import_module("torch"), importlib.import_module("transformers")
    torch.set_num_threads(args.threads)
    model = library.AutoModelForCausalLM.from_pretrained(args.model).to(getattr(torch, args.dtype)).eval()

    class Streamer:
        """The streamer that `generate` calls with the prompts and then with every step's tokens."""

        def __init__(self, jobs: list[StreamJob], deliver: Deliver) -> None:
            self.jobs, self.deliver, self.started = jobs, deliver, False

        def put(self, value: Any) -> None:
            if self.started:
                self.deliver([(job, [token]) for job, token in zip(self.jobs, value.tolist(), strict=True)])
            self.started = True

        def end(self) -> None:
            pass

    def generate(jobs: list[StreamJob], deliver: Deliver) -> None:
        ids = torch.tensor(padded(jobs))
        longest = ids.shape[1]
        mask = torch.tensor([[0] * (longest - len(job.prompt)) + [1] * len(job.prompt) for job in jobs])
        wanted = max(job.wanted for job in jobs)
        settings = {"max_new_tokens": wanted, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        with torch.inference_mode():
            model.generate(ids, attention_mask=mask, streamer=Streamer(jobs, deliver), **settings)

    model.generation_config.eos_token_id = None
    return static_batches(generate)


def onnxruntime(args: argparse.Namespace) -> Callable[[HttpServer], None]:
    """ONNX Runtime GenAI's generator on static batches."""
    numpy, genai = importlib.import_module("numpy"), importlib.import_module("onnxruntime_genai")
    config = genai.Config(args.model)
    options = {"intra_op_num_threads": args.threads, "inter_op_num_threads": 1}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    model = genai.Model(config)

    def generate(jobs: list[StreamJob], deliver: Deliver) -> None:
        ids = padded(jobs)
        total = len(ids[0]) + max(job.wanted for job in jobs)
        params = genai.GeneratorParams(model)
        params.set_search_options(
            batch_size=len(jobs), do_sample=False, min_length=total, max_length=total, past_present_share_buffer=True
        )
        generator = genai.Generator(model, params)
        generator.append_tokens(numpy.array(ids, dtype=numpy.int32))
        while not generator.is_done():
            generator.generate_next_token()
            tokens = generator.get_next_tokens().tolist()
            deliver([(job, [token]) for job, token in zip(jobs, tokens, strict=True)])

    return static_batches(generate)


def ctranslate2(args: argparse.Namespace) -> Callable[[HttpServer], None]:
    """CTranslate2's generator on static batches."""
    library = importlib.import_module("ctranslate2")
    model = library.Generator(
        args.model, device="cpu", compute_type=args.dtype, inter_threads=1, intra_threads=args.threads
    )
    names = json.loads((Path(args.model) / "vocabulary.json").read_text(encoding="utf-8"))

    def generate(jobs: list[StreamJob], deliver: Deliver) -> None:
        wanted = max(job.wanted for job in jobs)
        waiting: list[tuple[StreamJob, list[int]]] = []

        def step(result: Any) -> bool:
            waiting.append((jobs[result.batch_id], [result.token_id]))
            if len(waiting) == len(jobs):  # all rows of an iteration
                deliver(waiting.copy())
                waiting.clear()
            return False

        model.generate_batch(
            [[names[i] for i in row] for row in padded(jobs)],
            max_batch_size=0,
            max_length=wanted,
            min_length=wanted,
            sampling_topk=1,
            include_prompt_in_result=False,
            callback=step,
        )

    return static_batches(generate)


def padded(jobs: list[StreamJob]) -> list[list[int]]:
    """The prompts of a batch, filled up in front to the longest."""
    longest = max(len(job.prompt) for job in jobs)
    return [[0] * (longest - len(job.prompt)) + job.prompt for job in jobs]


def static_batches(generate: Callable[[list[StreamJob], Deliver], None]) -> Callable[[HttpServer], None]:
    """All waiting requests at once, until the longest has finished."""

    def run(server: HttpServer) -> None:
        while True:
            jobs = [server.jobs.get()]
            while True:
                try:
                    jobs.append(server.jobs.get(timeout=GATHER_SECONDS))
                except queue.Empty:
                    break
            try:
                generate(jobs, server.deliver)
            except Exception as error:
                for job in jobs:
                    server.fail(job, error)

    return run


ENGINES = {"openvino": openvino, "transformers": transformers, "onnxruntime": onnxruntime, "ctranslate2": ctranslate2}


def main() -> None:
    """Load the engine, then listen."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=tuple(ENGINES))
    parser.add_argument("model")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--cache-gb", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    start = time.perf_counter()
    run = ENGINES[args.engine](args)
    print(f"{args.engine} is loaded after {time.perf_counter() - start:.1f} s", flush=True)
    HttpServer().serve(args.port, run)


if __name__ == "__main__":
    main()
