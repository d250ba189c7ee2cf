"""Anthropic's API: `/v1/messages` and `/v1/messages/count_tokens`, as a translation to and from conversations."""
