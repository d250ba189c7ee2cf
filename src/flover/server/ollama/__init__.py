"""Ollama's API: chat, generate, and the routes by which its clients find models."""
