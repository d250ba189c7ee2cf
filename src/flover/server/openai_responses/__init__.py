"""OpenAI's `/v1/responses`, as a translation to and from conversations. Nothing is stored."""
