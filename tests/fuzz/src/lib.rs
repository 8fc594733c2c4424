//! Fuzz targets: for every parser of network bytes one function that takes any bytes and must neither panic, nor hang, nor
//! break what it asserts. libFuzzer drives them (`./run fuzz TARGET`, through `libfuzzer/`); `tests/targets.rs` drives them for a
//! moment with bent seeds in every test run, so that no target rots.
//!
//! What lives here: targets and their seeds. What does not: properties of correct behaviour, which stand beside each crate.

#![forbid(unsafe_code)]

mod dns;
mod media;
mod mesh;
mod recording;
mod signalling;
mod transport;
mod turn;

/// One entry for a fuzzer.
#[derive(Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// Takes anything. Panics if something is wrong with our code.
    pub run: fn(&[u8]),
    /// Well-formed inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target, by name.
pub const TARGETS: &[Target] = &[
    Target {
        name: "api_network",
        run: signalling::network,
        seeds: signalling::network_seeds,
    },
    Target {
        name: "api_token",
        run: signalling::token,
        seeds: signalling::token_seeds,
    },
    Target {
        name: "dns_queries",
        run: dns::queries,
        seeds: dns::query_seeds,
    },
    Target {
        name: "dtls_fragments",
        run: turn::dtls_fragments,
        seeds: turn::dtls_fragment_seeds,
    },
    Target {
        name: "link_datagrams",
        run: mesh::datagrams,
        seeds: mesh::datagram_seeds,
    },
    Target {
        name: "link_hello",
        run: mesh::hello,
        seeds: mesh::hello_seeds,
    },
    Target {
        name: "mesh_messages",
        run: mesh::control,
        seeds: mesh::message_seeds,
    },
    Target {
        name: "recorder_frames",
        run: recording::frames,
        seeds: recording::frame_seeds,
    },
    Target {
        name: "recorder_segment",
        run: recording::segment,
        seeds: recording::segment_seeds,
    },
    Target {
        name: "room_delta",
        run: mesh::delta,
        seeds: mesh::delta_seeds,
    },
    Target {
        name: "sfu_bandwidth",
        run: media::bandwidth,
        seeds: media::bandwidth_seeds,
    },
    Target {
        name: "sfu_rtcp",
        run: media::rtcp,
        seeds: media::rtcp_seeds,
    },
    Target {
        name: "sfu_rtp",
        run: media::rtp,
        seeds: media::rtp_seeds,
    },
    Target {
        name: "signalling_connect",
        run: signalling::connect,
        seeds: signalling::connect_seeds,
    },
    Target {
        name: "signalling_data",
        run: signalling::data,
        seeds: signalling::data_seeds,
    },
    Target {
        name: "signalling_frames",
        run: signalling::frames,
        seeds: signalling::frame_seeds,
    },
    Target {
        name: "transport_datagrams",
        run: transport::datagrams,
        seeds: transport::datagram_seeds,
    },
    Target {
        name: "transport_sdp",
        run: transport::sdp,
        seeds: transport::sdp_seeds,
    },
    Target {
        name: "transport_whip",
        run: transport::whip,
        seeds: transport::whip_seeds,
    },
    Target {
        name: "turn_datagrams",
        run: turn::datagrams,
        seeds: turn::datagram_seeds,
    },
    Target {
        name: "turn_dtls_hello",
        run: turn::dtls_hello,
        seeds: turn::dtls_hello_seeds,
    },
    Target {
        name: "turn_stream",
        run: turn::stream,
        seeds: turn::stream_seeds,
    },
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Cuts an input into messages: two bytes of length before each, the last one takes what is left.
fn messages(mut input: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = input.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (message, rest) = rest.split_at(length);
        input = rest;
        Some(message)
    })
}

/// The reverse of [`messages`].
fn joined<'a>(messages: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut input = Vec::new();
    for message in messages {
        input.extend_from_slice(&(message.len() as u16).to_be_bytes());
        input.extend_from_slice(message);
    }
    input
}
