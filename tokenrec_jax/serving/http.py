"""uvicorn's HTTP with bounds on what a client may send before anybody looks at it. Read `BoundedHttp`."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tokenrec_jax.serving.guard import MAX_BODY

#: Bytes of the line and the headers of a request.
MAX_HEAD = 1 << 16
#: Bytes of a whole request: a body in chunks of a few bytes, with all that is around them.
MAX_REQUEST = 16 * MAX_BODY


class BoundedHttp(HttpToolsProtocol):
    """One connection. The parser keeps headers, and what follows a body in chunks, however long they are."""

    _received, _in_head = 0, True

    def data_received(self, data: bytes) -> None:
        """Parses what came, and ends the connection when a request is too long."""
        self._received += len(data)
        super().data_received(data)
        if self._received > (MAX_HEAD if self._in_head else MAX_REQUEST) and not self.transport.is_closing():
            self.send_400_response("The request is too long.")

    def on_headers_complete(self) -> None:
        """Ends the head of a request."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Ends a request; what has come of the next one is counted from its next part on."""
        self._received, self._in_head = 0, True
        super().on_message_complete()
