# gallery/outside.py
"""What is outside of the shop: a mail server, and a bank, which says yes to everything."""

import json
import os
import smtplib
import threading
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import Request, urlopen


def post(path: str, data: dict[str, Any], key: str | None = None) -> None:
    """Have the bank do something: once for each key, and each time where there is none."""
    headers = {"Idempotency-Key": key} if key else {}
    request = Request(os.environ["BANK"] + path, json.dumps(data).encode(), headers)
    with urlopen(request, timeout=10) as reply:
        reply.read()


def send_mail(to: str, text: str, key: str | None = None) -> None:
    """Send a mail. Mail programs show two with one Message-ID once."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "shop@example.org", to, "Your order"
    if key:
        mail["Message-ID"] = f"<{key}@example.org>"
    mail.set_content(text)
    with smtplib.SMTP("localhost", local_hostname="shop", timeout=10) as server:
        server.send_message(mail)


class Bank(BaseHTTPRequestHandler):
    """The other side."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def open_bank() -> str:
    """Open it, in a thread of this process; its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bank)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"
