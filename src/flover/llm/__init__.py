"""`LLM`: the engine in the process of the caller, under the names that vLLM uses."""
