"""HTTP: the JSON API, the pages, problem documents and headers."""
