"""Greedy tokens of a GGUF file by llama.cpp, with their log-probabilities: a script, so that the tests' own process has
no kernels but Flover's.

Reads {"model": path, "prompts": [[token id]], "tokens": N} and writes [[[token id, log-probability]]].
"""

import json
import sys

import xllamacpp


def main() -> None:
    asked = json.load(sys.stdin)
    params = xllamacpp.CommonParams()
    params.model.path = asked["model"]
    params.n_gpu_layers = 0
    params.n_parallel = 1
    params.n_ctx = 512
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
    server = xllamacpp.Server(params)
    found = []
    for ids in asked["prompts"]:
        options = {
            "max_tokens": asked["tokens"],
            "temperature": 0,
            "logprobs": 1,
            "ignore_eos": True,
            "cache_prompt": False,
        }
        answer = server.handle_completions({"prompt": ids, **options})
        found.append([(entry["id"], entry["logprob"]) for entry in answer["choices"][0]["logprobs"]["content"]])
    json.dump(found, sys.stdout)


main()
