"""OpenTelemetry: traces of requests, sent by OTLP over HTTP."""
