"""The web console: server-rendered pages over the same reads as the API, with a little JavaScript of our own."""
