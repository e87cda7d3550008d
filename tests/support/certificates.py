"""Certificates of one's own, made by the `openssl` command."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

NAMES = "DNS:localhost,DNS:rabbit.example"
"""What the server's certificate is made out to; not 127.0.0.1."""
USER = "guest"
"""What the client's says."""
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Certificates:
    """The files of an authority that has signed the certificates of a server and of a client, in PEM form."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> "Certificates":
        """Makes them all. About 0.1 s."""
        folder.mkdir(parents=True)
        made = cls(folder)
        made._openssl("req", "-x509", *NEW_KEY, "-subj", "/CN=tests", "-keyout", "ca.key", "-out", "ca.pem")
        made._sign("server", "localhost", f"subjectAltName={NAMES}")
        made._sign("client", USER, "extendedKeyUsage=clientAuth")
        return made

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.folder / "ca.pem"

    @property
    def client(self) -> tuple[Path, Path, Path]:
        """What a client needs: the authority's certificate, its own, and its key."""
        return self.ca, self.certificate("client"), self.key("client")

    def certificate(self, who: str) -> Path:
        """That of `server` or `client`."""
        return self.folder / f"{who}.pem"

    def key(self, who: str) -> Path:
        """Its key."""
        return self.folder / f"{who}.key"

    def encrypt_key(self, who: str, passphrase: str) -> Path:
        """A copy of a key that can't be read without a passphrase."""
        self._openssl("ec", "-in", f"{who}.key", "-aes256", "-passout", f"pass:{passphrase}", "-out", f"{who}.secret")
        return self.folder / f"{who}.secret"

    def _sign(self, who: str, name: str, extension: str) -> None:
        (self.folder / f"{who}.ext").write_text(extension)
        self._openssl("req", *NEW_KEY, "-subj", f"/CN={name}", "-keyout", f"{who}.key", "-out", f"{who}.csr")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", f"{who}.ext")
        self._openssl("x509", "-req", "-in", f"{who}.csr", *signed, "-out", f"{who}.pem")

    def _openssl(self, *args: str) -> None:
        done = subprocess.run(["openssl", *args], cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
