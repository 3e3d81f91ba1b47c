"""Mails, and how the shop hands them to its mail server."""

import os
import smtplib
from dataclasses import dataclass
from email.message import EmailMessage

from .settings import MAIL_PORT

SENDER = "hello@shop.example"


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail to one person."""

    to: str
    subject: str
    text: str

    def send(self, key: object) -> None:
        """Hand the mail to the server. The same *key* makes the same Message-ID, by which a repeat is known.

        Raises ``smtplib.SMTPException`` when the server does not take it, be it only for now.
        """
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = SENDER, self.to, self.subject
        message["Message-ID"] = f"<{key}@shop.example>"
        message["X-Sent-By-Process"] = str(os.getpid())
        message.set_content(self.text)
        with smtplib.SMTP("127.0.0.1", MAIL_PORT, local_hostname="shop.example", timeout=15) as server:
            server.send_message(message)
