from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.signatures import is_signed, object_of, scrubbed, unsigned
from manifests.sources import url_source

PLAIN = "https://media.test/talks/a%20b.mp4?part=2&v=1080"
"""What is left of each of these; `secret` stands where a secret is."""
SIGNED = {
    "S3, version 4": "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=secret%2F20261130%2Feu%2Fs3%2Faws4_request"
    "&X-Amz-Date=20261130T000000Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Security-Token=secret%3D%3D"
    "&X-Amz-Signature=secret",
    "S3, small letters": "x-amz-signature=secret&x-amz-security-token=secret",
    "S3, version 2": "AWSAccessKeyId=secret&Expires=1790000000&Signature=secret%3D",
    "Google": "X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=secret&X-Goog-Date=1&X-Goog-Signature=secret",
    "Google, version 2": "GoogleAccessId=secret&Expires=1790000000&Signature=secret",
    "Azure": "sv=2024-11-04&st=2026-11-30T00%3A00Z&se=2026-12-01T00%3A00Z&sr=b&sp=r&skoid=secret&sig=secret%3D",
    "CloudFront": "Expires=1790000000&Signature=secret~&Key-Pair-Id=secret",
    "CloudFront, policy": "Policy=secret__&Signature=secret&Key-Pair-Id=secret",
    "Akamai": "hdnts=exp=1790000000~acl=/*~hmac=secret",
    "Akamai, edge": "hdnea=st=1~exp=2~acl=/talks/*~hmac=secret",
    "Alibaba": "OSSAccessKeyId=secret&Expires=1&Signature=secret&security-token=secret",
    "Tencent": "q-sign-algorithm=sha1&q-ak=secret&q-sign-time=1;2&q-key-time=1;2&q-header-list=&q-signature=secret",
    "Bunny": "token=secret&expires=1790000000",
    "Wowza": "wowzatokenendtime=1&wowzatokenhash=secret",
    "an access token": "access_token=secret",
    "an API key": "api_key=secret",
    "another spelling": "apiKey=secret",
    "escaped": "%58-Amz-Signature=secret",
    "a web token": "t=eyJhbGciOiJIUzI1NiJ9.eyJzZWNyZXQiOjF9.secretsecret",
}


def signed(how: str) -> str:
    """The secrets before, between and after what stays."""
    pieces = SIGNED[how].split("&")
    return f"https://media.test/talks/a%20b.mp4?{pieces[0]}&part=2&{'&'.join([*pieces[1:], 'v=1080'])}#t=3"


@pytest.mark.parametrize("how", SIGNED)
def test_what_signs_an_address_is_left_out_and_nothing_else(how: str) -> None:
    assert is_signed(signed(how))
    assert unsigned(signed(how)) == f"{PLAIN}#t=3"
    assert unsigned(unsigned(signed(how))) == unsigned(signed(how))


@pytest.mark.parametrize("how", SIGNED)
def test_one_object_under_two_signatures_is_one_source(how: str) -> None:
    again = signed(how).replace("secret", "another").replace("1790000000", "1790009999")
    assert url_source(signed(how)).source_id == url_source(again).source_id == url_source(PLAIN).source_id
    assert url_source(signed(how)).address == signed(how), "it is fetched with its signature"


@pytest.mark.parametrize(
    ("address", "seen"),
    [
        ("https://u:secret@media.test/a.mp4", "https://media.test/a.mp4"),
        ("https://secret@media.test/a.mp4?a=1", "https://media.test/a.mp4?a=1"),
        ("https://cdn.test/exp=17~acl=/*~hmac=5ec4e7/a.m3u8", "https://cdn.test/a.m3u8"),
        ("https://cdn.test/token=secret/a.mp4;jsessionid=secret", "https://cdn.test/a.mp4"),
        ("https://cdn.test/eyJhbGciOiJI.eyJzZWNyZXQi.secret/a.mp4", "https://cdn.test//a.mp4"),
        ("https://a.test/cb#access_token=secret&x=1", "https://a.test/cb#x=1"),
        ("https://a.test/p?u=https%3A%2F%2Fb.test%2Fa.mp4%3Fsig%3Dsecret%26x%3D1&y", "https://a.test/p?u=https%3A%2F%2Fb.test%2Fa.mp4%3Fx%3D1&y"),
        ("s3://secret@bucket/a", "s3://bucket/a"),
        ("https://[::1/a.mp4?sig=secret", "https://[::1/a.mp4"),
    ],
)  # fmt: skip
def test_secrets_in_other_places_are_left_out(address: str, seen: str) -> None:
    assert unsigned(address) == seen


@pytest.mark.parametrize(
    "address",
    [
        "https://www.youtube.com/watch?v=aBc-_123&list=PL1&index=2&t=30s",
        "https://a.test/talks.php?session=42&sid=7&se=2&sp=3&st=4&ip=5&policy=open&key=a",
        "https://a.test/listing?pageToken=CAUQAA&key=1",
        "https://a.test/@channel/a=b;c/x.mp4?at=me@home",
        "file:talk?token=1.mp4",
        "/films/a?sig=1.mp4",
        "https://a.test/?",
    ],
)
def test_what_is_no_secret_stays_to_the_letter(address: str) -> None:
    assert unsigned(address) == address


def test_videos_that_only_a_token_tells_apart_are_two_sources() -> None:
    one, two = (url_source(f"https://a.test/get.php?token={name}") for name in ("one", "two"))
    assert one.source_id != two.source_id
    assert unsigned(one.address) == "https://a.test/get.php"


def test_a_message_is_told_without_signatures() -> None:
    text = "HTTP Error 403 at https://a.test/x.mp4?a=1&sig=secret&sv=1, from 'http://u:secret@b.test/?a=1'\n  see docs"
    assert scrubbed(text) == "HTTP Error 403 at https://a.test/x.mp4?a=1, from 'http://b.test/?a=1'\n  see docs"
    assert (
        scrubbed("[generic] x.mp4?sig=secret: 403 (x?a=1&sig=secret) why? a=b")
        == "[generic] x.mp4: 403 (x?a=1) why? a=b"
    )


@given(st.text(alphabet="ab?&=#/:@;.%eyJsigX-", max_size=60))
def test_any_text_can_be_asked(text: str) -> None:
    for address in (text, f"https://{text}", f"https://a.test/{text}"):
        once = unsigned(address)
        assert unsigned(once) == once
        scrubbed(address)
        object_of(address, path_names_it=False)
