"""The processes of `tiles serve`: the front, the HTTP server, the worker, and what starts them again."""
