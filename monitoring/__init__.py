"""Rules, dashboard and examples for Prometheus, Grafana and Alertmanager, and the scripts that make them."""
