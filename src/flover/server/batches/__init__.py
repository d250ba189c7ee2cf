"""OpenAI's batch API: files of requests, answered as backfill."""
