"""Where OpenAI-compatible servers listen."""

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
