"""deploy/compose/setup against an S3 server that checks signatures, with a stand-in for the program."""

import hashlib
import hmac
import os
import tempfile
import threading
import unittest
import urllib.parse
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from common import DEPLOY, run

ACCESS, SECRET = "a" * 64, "b" * 64

PROGRAM = """#!/usr/bin/env bash
echo "$SANAFARM_DATABASE $*" >>"$OUT/calls"
dir=$(sed -n 's/.*--dir \\([^ ]*\\).*/\\1/p' <<<"$*")
case "$*" in
    "token ca init "*) echo ca >"$dir/ca.pem"; echo key >"$dir/ca.key" ;;
    "token ca issue "*) [[ -e $dir/$4.pem ]] && exit 1; echo cert >"$dir/$4.pem"; echo key >"$dir/$4.key" ;;
    "token create "*) echo "sf_$3_$5" ;;
    *) exit 1 ;;
esac
"""


def signature(request):
    """Signature Version 4, written from Amazon's description and not from curl's."""
    fields = dict(part.strip().split("=", 1) for part in request.headers["Authorization"].split(" ", 1)[1].split(","))
    _, date, region, service, _ = fields["Credential"].split("/")
    signed = fields["SignedHeaders"].split(";")
    headers = "".join(f"{name}:{request.headers[name].strip()}\n" for name in signed)
    payload = request.headers.get("x-amz-content-sha256") or hashlib.sha256(b"").hexdigest()
    path = urllib.parse.quote(request.path)
    canonical = "\n".join([request.command, path, "", headers, fields["SignedHeaders"], payload])
    scope = f"{date}/{region}/{service}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", request.headers["X-Amz-Date"], scope, digest])
    key = ("AWS4" + SECRET).encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), "sha256").digest()
    right = hmac.new(key, text.encode(), "sha256").hexdigest()
    return fields["Credential"].startswith(ACCESS + "/") and hmac.compare_digest(right, fields["Signature"])


class Bucket(BaseHTTPRequestHandler):
    made = set()

    def do_PUT(self):
        code = 403
        # What S3 asks for, and some servers that speak its protocol insist on.
        if self.headers.get("x-amz-content-sha256") and signature(self):
            code = 409 if self.path in self.made else 200
            self.made.add(self.path)
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Setup(unittest.TestCase):
    def setUp(self):
        kept = tempfile.TemporaryDirectory()
        self.addCleanup(kept.cleanup)
        self.out = Path(kept.name)
        for folder in ("bin", "secrets", "keys/ca", "keys/coordinator", "keys/worker", "keys/admin", "keys/metrics"):
            (self.out / folder).mkdir(parents=True)
        (self.out / "bin/sanafarm").write_text(PROGRAM)
        (self.out / "bin/sanafarm").chmod(0o755)
        (self.out / "bin/chown").write_text("#!/bin/sh\n")
        (self.out / "bin/chown").chmod(0o755)
        (self.out / "secrets/coordinator.toml").write_text('[coordinator]\ndatabase = "postgres://u:p@db/farm"\nwebhook_secret = "x"\n')
        Bucket.made = set()
        self.server = HTTPServer(("127.0.0.1", 0), Bucket)
        thread = threading.Thread(target=self.server.serve_forever)
        thread.start()
        self.addCleanup(lambda: (self.server.shutdown(), thread.join(), self.server.server_close()))

    def setup_farm(self, secret=SECRET):
        return run(
            DEPLOY / "compose/setup",
            env={
                "PATH": f"{self.out}/bin:{os.environ['PATH']}",
                "OUT": str(self.out),
                "KEYS": f"{self.out}/keys",
                "SECRETS": f"{self.out}/secrets",
                "AWS_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": ACCESS,
                "AWS_SECRET_ACCESS_KEY": secret,
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server.server_port}",
            },
        )

    def files(self):
        keys = self.out / "keys"
        return {str(file.relative_to(keys)): file.read_text().strip() for file in keys.rglob("*") if file.is_file()}

    def test_it_makes_everything_and_then_keeps_it(self):
        code, output = self.setup_farm()
        self.assertEqual(code, 0, output)
        made = self.files()
        self.assertEqual(made["worker/token"], "sf_worker_worker")
        self.assertEqual(made["metrics/token"], "sf_metrics_read")
        self.assertEqual(
            {name for name in made if not name.startswith("ca/")},
            {f"{reader}/ca.pem" for reader in ("coordinator", "worker", "admin", "metrics")}
            | {f"{reader}/token" for reader in ("worker", "admin", "metrics")}
            | {"coordinator/cert.pem", "coordinator/key.pem"},
        )
        self.assertEqual(set(made) - {name for name in made if not name.startswith("ca/")}, {"ca/ca.pem", "ca/ca.key"})
        self.assertEqual(Bucket.made, {"/renders"})
        calls = (self.out / "calls").read_text()
        self.assertIn("postgres://u:p@db/farm token create worker --role worker", calls)

        code, output = self.setup_farm()
        self.assertEqual(code, 0, output)
        self.assertEqual(self.files(), made)
        self.assertEqual((self.out / "calls").read_text().count("token create"), 3)
        self.assertEqual((self.out / "calls").read_text().count("ca init"), 1)

    def test_a_wrong_key_is_told(self):
        code, output = self.setup_farm(secret="c" * 64)
        self.assertEqual(code, 1)
        self.assertIn("was answered with 403", output)


if __name__ == "__main__":
    unittest.main()
