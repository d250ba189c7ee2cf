"""Loading and unloading of adapters at run time, as vLLM has it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from flover.server.protocol import LoadAdapterBody, UnloadAdapterBody
from flover.server.read_request import read_request, state_of


async def load_adapter(request: Request) -> Response:
    """Serve the adapter in a directory of the server under a name."""
    state, body = state_of(request), await read_request(request, LoadAdapterBody)
    await state.adapters.load(state.ready_supervisor(), body.lora_name, body.lora_path)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


async def unload_adapter(request: Request) -> Response:
    """Serve an adapter no more; requests that were accepted before finish with it."""
    state, body = state_of(request), await read_request(request, UnloadAdapterBody)
    state.adapters.unload(body.lora_name)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


ROUTES = [
    Route("/v1/load_lora_adapter", load_adapter, methods=["POST"]),
    Route("/v1/unload_lora_adapter", unload_adapter, methods=["POST"]),
]
