"""Certificates for the API over TCP, made as the operator guide has them made."""

import dataclasses
import pathlib
import subprocess


@dataclasses.dataclass
class Certificate:
    """Files: its own, and the CA's that whoever uses it believes."""

    file: pathlib.Path
    key: pathlib.Path
    ca: pathlib.Path

    def listen(self, address):
        """[daemon.listen]"""
        return {"address": address, "certificate": str(self.file), "key": str(self.key), "ca": str(self.ca)}

    def options(self):
        """everportctl's."""
        return ("--cert", self.file, "--key", self.key, "--ca", self.ca)

    def lasts(self):
        asked = subprocess.run(["openssl", "x509", "-checkend", "0", "-noout", "-in", self.file], capture_output=True)
        return asked.returncode == 0


class Ca:
    NEW_KEY = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")

    def __init__(self, folder, name="everport CA"):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir()
        self.file = self.folder / "ca.crt"
        self._openssl(*self.NEW_KEY, "-x509", "-days", 2, "-subj", f"/CN={name}", "-keyout", "ca.key", "-out", "ca.crt")

    def issue(self, name, address, days=2):
        """For an IP address, to serve and to connect. days 0: it has expired by the next second."""
        self._openssl(*self.NEW_KEY, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (self.folder / f"{name}.ext").write_text(f"subjectAltName=IP:{address}\nextendedKeyUsage=serverAuth,clientAuth\n")
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                      "-days", days, "-extfile", f"{name}.ext", "-out", f"{name}.crt")
        return Certificate(self.folder / f"{name}.crt", self.folder / f"{name}.key", self.file)

    def _openssl(self, *args):
        done = subprocess.run(["openssl", *map(str, args)], cwd=self.folder, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"openssl {' '.join(map(str, args))}: {done.stderr.strip()}")
