"""What people paste: read as what it is, or refused in words that say what it is."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from codio_dht.core.multihash import multihash_of
from codio_dht.core.peer import PeerId
from codio_dht.daemon.parameters import parse_cid, parse_key, parse_peer
from codio_dht.errors import FormatError, UsageError
from codio_dht.formats.cid import RAW, format_cid
from codio_dht.formats.multihash import encode_multihash
from codio_dht.formats.text import MAX_TEXT_CHARS, read_cid, read_multiaddr, read_peer_id
from codio_dht.node.arguments import multiaddr_argument, peer_argument

V0 = "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR"
V1 = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
PEER = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
RSA_PEER = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"
PEER_CID = "bafzaajaiaejcbpltl72da5f3y7ojrtsa7hsfn5bbnkjbkwyesziqqtdry6vjilku"
K51 = "k51qzi5uqu5dldaeuspgole5pfynwezcnrxw8ux5zqb5ty1hd5h1trimrfuy5k"

# --- CIDs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        V1,
        V1.upper(),
        f"  {V1}\n",
        f"\ufeff{V1}",
        f"ipfs://{V1}",
        f"IPFS://{V1.upper()}",
        f"ipfs://{V1}/",
        f"ipfs:{V1}",
        f"ipfs://{V1}?filename=a.txt",
        f"ipfs://{V1}#top",
        f"/ipfs/{V1}",
        f"/ipfs/{V1}///",
        f"ipfs/{V1}",
        f"dweb:/ipfs/{V1}",
        f"web+ipfs://{V1}",
        f"https://ipfs.io/ipfs/{V1}",
        f"HTTPS://IPFS.IO/ipfs/{V1}/?download=1",
        f"http://127.0.0.1:8080/ipfs/{V1}",
        f"https://{V1}.ipfs.dweb.link/",
        f"https://{V1}.ipfs.dweb.link",
        f"http://{V1}.ipfs.localhost:8080/#top",
    ],
)
def test_a_cid_is_read_whatever_stands_around_it_and_everywhere_the_same(text: str) -> None:
    multihash = read_cid(V1).cid.multihash
    assert read_cid(text).text.lower() == V1
    assert multihash == read_cid(text).cid.multihash == multihash_of(text)
    assert multihash == parse_cid(text, "cid")[1] == parse_key(text, "key")


@pytest.mark.parametrize(
    "text",
    [
        "bahzx6erapmyj2hvvcxsovqmutfqx4noka6gewaadj66uaa3ctprbmnfsejia",
        "bafk76xzapmyj2hvvcxsovqmutfqx4noka6gewaadj66uaa3ctprbmnfsejia",
        "bafk2hawaaeqhwme5d22rlzhkygkjsyl6gxfapdclaabu7pkaanrjxyqwgszceua",
        "mAVUSIMfQFIkICFjFAAZYNsZY+EemymfEhkYZISvk+CAOS7rO",  # base64 has slashes among its digits
        "mAVUSIP//////////////////////////////////////////",
    ],
)
def test_an_unknown_codec_or_hash_and_a_slash_among_the_digits_are_no_obstacle(text: str) -> None:
    assert text == read_cid(text).text
    assert multihash_of(text) == parse_cid(f"/ipfs/{text}", "cid")[1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"/ipfs/{V1}/readme", f"path inside of some content.*the root's is {V1}"),
        (f"https://ipfs.io/ipfs/{V1}/readme", f"path inside.*the root's is {V1}"),
        (f"https://{V1}.ipfs.dweb.link/readme", f"path inside.*the root's is {V1}"),
        (f"{V0}/readme", f"path inside.*the root's is {V0}"),
        ("/ipns/docs.example.com", "an IPNS name.*give the CID that it leads to"),
        (f"ipns://{K51}", "an IPNS name"),
        (f"https://{K51}.ipns.dweb.link/", "an IPNS name"),
        ("https://example.org/", "a web address, and none of an IPFS gateway"),
        (f"https://example.org/{V1}", "a web address, and none of an IPFS gateway"),
        (PEER, "not a CID: it is a peer id"),
        (f"/ip4/1.2.3.4/tcp/4001/p2p/{PEER}", "not a CID: it is an address or a path"),
        (V0.lower(), "needs its exact letters"),
        ("hello", "'hello' is not a CID$"),
        ("", "'' is not a CID$"),
        ("/ipfs/", "'/ipfs/' is not a CID"),
        ("ipfs://", "is not a CID"),
        ("b" * 100_000, f"has 100000 characters, more than {MAX_TEXT_CHARS}"),
    ],
)
def test_text_that_names_no_content_is_refused_in_words_that_say_what_it_is(
    text: str, says: str
) -> None:
    with pytest.raises(FormatError, match=says):
        read_cid(text)
    for read in (multihash_of, parse_cid):
        with pytest.raises(UsageError, match=rf"^content: .*{says}"):
            read(text, "content")


def test_a_cid_longer_than_any_is_not_even_decoded() -> None:
    longest, longer = (format_cid(RAW, encode_multihash(0, bytes(size))) for size in (600, 700))
    assert 1 == read_cid(longest).cid.version
    with pytest.raises(FormatError, match="is not a CID"):
        read_cid(longer)
    with pytest.raises(FormatError, match="is not a peer id"):
        read_peer_id("1" * 1_025)


def test_a_text_of_the_greatest_length_is_still_looked_at() -> None:
    assert V1 == read_cid(V1.rjust(MAX_TEXT_CHARS)).text
    with pytest.raises(FormatError, match=f"has {MAX_TEXT_CHARS + 1} characters"):
        read_cid(V1.rjust(MAX_TEXT_CHARS + 1))


# --- peer ids -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        "{}",
        " {}\n",
        "\ufeff{}",
        "{}/",
        "/p2p/{}",
        "/p2p/{}/",
        "/ipfs/{}",
        "/ipns/{}",
        "ipns://{}",
        "IPNS://{}/",
    ],
)
@pytest.mark.parametrize("peer", [PEER, RSA_PEER, K51, K51.upper()])
def test_a_peer_id_is_read_whatever_stands_around_it_and_everywhere_the_same(
    wrap: str, peer: str
) -> None:
    text = wrap.format(peer)
    expected = PeerId(read_peer_id(peer))
    assert expected == PeerId.from_string(text) == peer_argument(text) == parse_peer(text, "peer")
    assert expected.to_bytes() == parse_key(text, "key")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (V1, "it is a CID of codec raw"),
        (f"/ip4/1.2.3.4/tcp/4001/p2p/{PEER}", "it is an address.*give the peer id at its end"),
        (PEER.lower(), "needs its exact letters, small and capital$"),
        (RSA_PEER.lower(), "needs its exact letters, small and capital$"),
        (PEER[:-1], "is not a peer id$"),
        (PEER + "0", "is not a peer id$"),
        ("", "'' is not a peer id$"),
        ("1" * 100_000, "characters"),
    ],
)
def test_text_that_is_no_peer_id_is_refused_in_words_that_say_what_it_is(
    text: str, says: str
) -> None:
    with pytest.raises(FormatError, match=says):
        read_peer_id(text)
    with pytest.raises(UsageError, match=rf"^who: .*{says}"):
        peer_argument(text, "who")
    with pytest.raises(UsageError, match=rf"^who: .*{says}"):
        parse_peer(text, "who")


# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("/ip4/1.2.3.4/tcp/4001", "/ip4/1.2.3.4/tcp/4001"),
        (" /ip4/1.2.3.4/tcp/4001/\n", "/ip4/1.2.3.4/tcp/4001"),
        ("\ufeff/ip4/1.2.3.4/tcp/4001", "/ip4/1.2.3.4/tcp/4001"),
        (f"/ip4/1.2.3.4/tcp/4001/ipfs/{RSA_PEER}", f"/ip4/1.2.3.4/tcp/4001/p2p/{RSA_PEER}"),
        (f"/ip4/1.2.3.4/tcp/4001/ipfs/{PEER}/", f"/ip4/1.2.3.4/tcp/4001/p2p/{PEER}"),
        (
            f"/ip4/1.2.3.4/tcp/4001/ipfs/{RSA_PEER}/p2p-circuit/ipfs/{PEER}",
            f"/ip4/1.2.3.4/tcp/4001/p2p/{RSA_PEER}/p2p-circuit/p2p/{PEER}",
        ),
        (f"/dnsaddr/x.example/ipfs/{K51}", f"/dnsaddr/x.example/p2p/{K51}"),
        (f"/unix/ipfs/{PEER}", f"/unix/ipfs/{PEER}"),
    ],
)
def test_an_address_is_read_with_the_old_name_of_p2p_and_blanks_around_it(
    text: str, means: str
) -> None:
    assert Multiaddr(means) == read_multiaddr(text) == multiaddr_argument(text, "addr")


@pytest.mark.parametrize("what", [V1, "xyz", PEER[:-1]])
def test_what_is_no_peer_id_behind_ipfs_is_refused_as_it_was_written(what: str) -> None:
    with pytest.raises(FormatError, match="unknown protocol: ipfs"):
        read_multiaddr(f"/ip4/1.2.3.4/tcp/4001/ipfs/{what}")


@pytest.mark.parametrize(
    "text", ["nonsense", "/ip4/1.2.3", "/ipfs/hello", "/ip4/1.2.3.4/ipfs", "/p2p/hello", "ip4"]
)
def test_text_that_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"^addr: .* is not a multiaddr"):
        multiaddr_argument(text, "addr")


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (read_cid, read_peer_id, read_multiaddr):
        with suppress(FormatError):
            read(text)
