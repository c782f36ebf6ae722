"""An S3 server on the loopback interface, which counts its requests."""

import threading
import urllib.request
from dataclasses import dataclass
from typing import Self

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: str
    status: int


class _Silent(WSGIRequestHandler):
    def log(self, *arguments):
        pass


class S3Server:
    """Serves buckets from memory, for this process and others."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        #: Called with the method and path of each request; True lets it fail.
        self.is_out_of_order = lambda method, path: False
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=_Silent)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _serve(self, environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]

        def start(status, *rest):
            self.requests.append(Request(method, path, environ.get("QUERY_STRING", ""), int(status.split()[0])))
            return start_response(status, *rest)

        if self.is_out_of_order(method, path):
            start("503 Service Unavailable", [("Content-Length", "0")])
            return [b""]
        return self._app(environ, start)

    def make_bucket(self, name: str) -> None:
        urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")).close()

    def location(self, place: str) -> str:
        """The location of a bucket and a folder in it, on this server."""
        return f"s3://{place}?endpoint_override={self.endpoint}"
