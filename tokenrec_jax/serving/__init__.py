"""A finished run behind HTTP: `app.create_app` over an `engine.Engine` over a `Recommender` and a `log.InteractionLog`.

  protocol    what a recommender must have to be served; the server knows nothing else of the model
  log         append-only file of what clients told, durable before it is acknowledged
  batcher     requests that arrive together are answered together
  catalogue   which ids are known, and search in their titles
  engine      puts the four together; the only place where something changes
  wire        JSON bodies, in and out
  guard       around every request: key, size, host, metrics, errors
  metrics     counters in Prometheus' format
  app         the routes
  access      who may reach the server
  page.html   the page at `/`; docs.html the one at `/docs`; both work offline

Nothing here imports JAX's models; start with `engine.py`. The command is `experiments/serve.py`.
"""
