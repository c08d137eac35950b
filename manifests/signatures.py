"""What of an address is a secret: signatures, tokens and logins, which stand in query strings above all.

Addresses of object storage and of CDNs are often signed: whoever has one can fetch the object until it expires, and the
next one for the same object is another text. To fetch it the whole address is needed; a row, a card, a manifest or a
message says it without (`unsigned`), and a source is named without (`object_of`), so that a fresh signature is no new
source. Sources of the names: AWS (signature versions 2 and 4), Google Cloud Storage (V2, V4), Azure (SAS), CloudFront,
Akamai (hdnts, hdnea), Alibaba and Tencent, Bunny, Wowza, googlevideo, Kaltura, and what APIs commonly call a token.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, urlsplit, urlunsplit


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SCHEMES = ("xamz", "xgoog", "xtos", "xobs", "qsign")
"""Names that begin like this belong to a signature as a whole."""
_SIGNATURES = _names(
    """signature sig lsig hmac wmsauthsign awsaccesskeyid googleaccessid ossaccesskeyid keypairid securitytoken
    xosssignature xosscredential xossdate xossexpires xosssignatureversion xosssecuritytoken xossadditionalheaders
    xcossecuritytoken qak qkeytime qheaderlist qurlparamlist qsignature hdnts hdnea hdntl gda wowzatokenhash
    wowzatokenstarttime wowzatokenendtime xsignature bcdntoken"""
)
"""Names that say by themselves that an address is signed; of all names small letters count, without - and _."""
_SECRETS = _names(
    """sign token accesstoken authtoken idtoken refreshtoken sessiontoken usertoken securetoken stoken xplextoken jwt
    bearer authorization auth authkey apikey clientsecret secret password passwd pwd sessionid jsessionid phpsessid
    credential credentials"""
)
"""Names that often hold a secret, but may be all that names a video where the path does not."""
_EXPIRY = frozenset(("expires", "expire", "exp", "xexpires"))
_BESIDE = _EXPIRY | _names(
    """policy hashalgorithm sv ss srt sp se st spr sr sip skoid sktid skt ske sks skv saoid
    suoid scid sdd ses sparams lsparams ip ipbits"""
)
"""Names that belong to a signature where there is one; the first of them to any secret."""
_IN_PATH = re.compile(
    r"[/;](?:(?:hdnt[sl]=|hdnea=)?(?:st|exp)=\d+~.*?hmac=[0-9a-f]+|"
    r"(?:hdnt[sl]|hdnea|bcdn_token|token|jsessionid)=[^/;]*)",
    re.IGNORECASE,
)
_JWT = re.compile(r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://[^\s\"'<>]+(?<![:,.;)\]])", re.IGNORECASE)
_QUERY = re.compile(r"\?([^\s\"'<>?=]+=[^\s\"'<>]*)(?<![:,.;)\]])")
_MAY_HOLD_ANY = re.compile(r"[?#@;=]|eyJ")
_DEPTH = 3
"""Addresses within addresses are followed so far."""


def unsigned(address: str) -> str:
    """The address as anybody may see it: without signatures, tokens and logins. Paths of files stay as they are."""
    return _stripped(address, every_secret=True)


def object_of(address: str, *, path_names_it: bool) -> str:
    """The address without its signature, and without other secrets where its path names a file by itself."""
    return _stripped(address, every_secret=path_names_it)


def is_signed(address: str) -> bool:
    """Whether an address holds what others must not see."""
    return unsigned(address) != address


def scrubbed(text: str) -> str:
    """Any text with every address in it as `unsigned` says it; also where only its end stands there (`a.mp4?sig=…`)."""
    return _QUERY.sub(lambda found: _query(found[1]), _ADDRESS.sub(lambda found: unsigned(found[0]), text))


def _query(text: str) -> str:
    kept = _kept(text, every_secret=True, depth=0)
    return f"?{kept}" if kept else ""


def _stripped(address: str, *, every_secret: bool, depth: int = 0) -> str:
    if "://" not in address or not _MAY_HOLD_ANY.search(address):
        return address
    try:
        parts = urlsplit(address)
    except ValueError:
        return address.partition("?")[0]
    query, fragment = (_kept(text, every_secret=every_secret, depth=depth) for text in (parts.query, parts.fragment))
    path = _JWT.sub("", _IN_PATH.sub("", parts.path))
    host = parts.netloc.rpartition("@")[2]
    if (host, path, query, fragment) == (parts.netloc, parts.path, parts.query, parts.fragment):
        return address
    return urlunsplit((parts.scheme, host, path, query, fragment))


def _kept(query: str, *, every_secret: bool, depth: int) -> str:
    """A query string without what is secret in it; what stays, stays as it was written."""
    pieces = query.split("&")
    names = [_name(piece) for piece in pieces]
    is_signature = [name in _SIGNATURES or name.startswith(_SCHEMES) for name in names]
    is_secret = [name in _SECRETS or bool(_JWT.search(piece)) for name, piece in zip(names, pieces, strict=True)]
    if not every_secret:
        is_secret = [False] * len(pieces)
    beside = _BESIDE if any(is_signature) else _EXPIRY if any(is_secret) else frozenset()
    kept = [
        _inner(piece, every_secret, depth)
        for piece, name, *drop in zip(pieces, names, is_signature, is_secret, strict=True)
        if not any(drop) and name not in beside
    ]
    return "&".join(kept)


def _name(piece: str) -> str:
    return re.sub(r"[-_.]|^amp;", "", unquote(piece.partition("=")[0]).lower())


def _inner(piece: str, every_secret: bool, depth: int) -> str:
    """A piece of a query string whose value may be an address itself."""
    name, equals, value = piece.partition("=")
    text = unquote(value)
    if not _ADDRESS.match(text) or depth == _DEPTH:
        return piece
    clean = _stripped(text, every_secret=every_secret, depth=depth + 1)
    return piece if clean == text else f"{name}{equals}{quote(clean, safe='')}"
