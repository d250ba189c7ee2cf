"""Routes of OpenAI-compatible servers."""

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
