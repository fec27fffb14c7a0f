"""The live page in aiohttp, and what Prometheus and Grafana read."""
