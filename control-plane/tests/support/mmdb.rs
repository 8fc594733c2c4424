//! A small address database, written byte by byte (<https://maxmind.github.io/MaxMind-DB/>): IPv4 networks and where they are.

/// Networks (`81.0.0.0`, bits) with a latitude and a longitude each.
pub(crate) fn database(networks: &[([u8; 4], u8, f64, f64)]) -> Vec<u8> {
    // A binary trie: each node has two records, first of addresses in this file, then turned into the format's numbers.
    #[derive(Clone, Copy)]
    enum Record {
        Nothing,
        Node(usize),
        Data(usize),
    }
    let (mut nodes, mut data) = (vec![[Record::Nothing; 2]], Vec::new());
    for (address, bits, lat, lon) in networks {
        let offset = data.len();
        place(*lat, *lon, &mut data);
        let mut at = 0;
        for bit in 0..*bits {
            let side = usize::from(address[usize::from(bit / 8)] >> (7 - bit % 8) & 1);
            if bit + 1 == *bits {
                nodes[at][side] = Record::Data(offset);
            } else if let Record::Node(next) = nodes[at][side] {
                at = next;
            } else {
                nodes.push([Record::Nothing; 2]);
                let next = nodes.len() - 1;
                nodes[at][side] = Record::Node(next);
                at = next;
            }
        }
    }
    let mut out = Vec::new();
    for record in nodes.iter().flatten() {
        let number = match record {
            Record::Nothing => nodes.len(),
            Record::Node(next) => *next,
            Record::Data(offset) => nodes.len() + 16 + offset,
        };
        out.extend(&(number as u32).to_be_bytes()[1..]);
    }
    out.extend([0; 16]);
    out.extend(data);
    out.extend(b"\xab\xcd\xefMaxMind.com");
    out.push(7 << 5 | 9);
    let mut field = |name: &str, value: &[u8]| {
        text(name, &mut out);
        out.extend(value);
    };
    field("binary_format_major_version", &[5 << 5 | 1, 2]);
    field("binary_format_minor_version", &[5 << 5]);
    field("build_epoch", &[1, 2, 1]);
    field("database_type", b"\x44Test");
    field("description", &[7 << 5]);
    field("ip_version", &[5 << 5 | 1, 4]);
    field("languages", &[0, 4]);
    let mut count = vec![6 << 5 | 4];
    count.extend((nodes.len() as u32).to_be_bytes());
    field("node_count", &count);
    field("record_size", &[5 << 5 | 1, 24]);
    out
}

/// `{"location": {"latitude": …, "longitude": …}}`
fn place(lat: f64, lon: f64, out: &mut Vec<u8>) {
    out.push(7 << 5 | 1);
    text("location", out);
    out.push(7 << 5 | 2);
    for (name, value) in [("latitude", lat), ("longitude", lon)] {
        text(name, out);
        out.push(3 << 5 | 8);
        out.extend(value.to_be_bytes());
    }
}

fn text(text: &str, out: &mut Vec<u8>) {
    out.push(2 << 5 | text.len() as u8);
    out.extend(text.as_bytes());
}
