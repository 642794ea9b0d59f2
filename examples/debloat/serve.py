"""Answers on port 8000 with a sum that the GPU adds up, if there is one."""

from http.server import BaseHTTPRequestHandler, HTTPServer

import torch

device = "cuda" if torch.cuda.is_available() else "cpu"


class Sum(BaseHTTPRequestHandler):
    def do_GET(self):
        numbers = torch.arange(1000.0, device=device)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{(numbers @ numbers).item()}\n".encode())


HTTPServer(("", 8000), Sum).serve_forever()
