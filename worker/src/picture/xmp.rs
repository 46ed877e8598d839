//! The recipe as a property of an XMP packet (ISO 16684), for JPEG and WebP.

use md5::{Digest, Md5};
use quick_xml::NsReader;
use quick_xml::escape::{partial_escape, unescape};
use quick_xml::events::Event;
use quick_xml::name::{Namespace, ResolveResult};

use crate::recipe::Provenance;

/// Namespace of our property.
const NAMESPACE: &str = "urn:sanafarm:xmp:1/";
/// What the segment with the packet begins with in a JPEG.
const PACKET: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
/// What the segments of an extension begin with.
const EXTENSION: &[u8] = b"http://ns.adobe.com/xmp/extension/\0";
/// Bytes of a packet that fit one segment.
const PACKET_BYTES: usize = 65_502;
/// Bytes of an extension in one segment.
const EXTENSION_BYTES: usize = 65_400;

/// The packet of a picture.
pub(super) fn packet(provenance: &Provenance) -> String {
    wrapped(&property(provenance))
}

/// What the APP1 segments of a JPEG hold: the packet, or one that refers to its extension where it does not fit.
pub(super) fn segments(provenance: &Provenance) -> Vec<Vec<u8>> {
    let whole = packet(provenance);
    if whole.len() <= PACKET_BYTES {
        return vec![[PACKET, whole.as_bytes()].concat()];
    }
    let extension = described(&property(provenance));
    let guid: String = Md5::digest(&extension).iter().map(|byte| format!("{byte:02X}")).collect();
    let note = format!(
        r#"<rdf:Description rdf:about="" xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="{guid}"/>"#
    );
    let mut segments = vec![[PACKET, wrapped(&note).as_bytes()].concat()];
    let length = extension.len() as u32;
    for (part, offset) in extension.as_bytes().chunks(EXTENSION_BYTES).zip((0..).step_by(EXTENSION_BYTES)) {
        let offset: u32 = offset;
        let header = [EXTENSION, guid.as_bytes(), &length.to_be_bytes(), &offset.to_be_bytes()].concat();
        segments.push([header.as_slice(), part].concat());
    }
    segments
}

fn property(provenance: &Provenance) -> String {
    // The two letters that JSON leaves as they are and XML forbids.
    let json = provenance.to_json().replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff");
    let json = partial_escape(&json);
    format!(
        r#"<rdf:Description rdf:about="" xmlns:sanafarm="{NAMESPACE}"><sanafarm:recipe>{json}</sanafarm:recipe></rdf:Description>"#
    )
}

fn described(description: &str) -> String {
    format!(
        r#"<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">{description}</rdf:RDF></x:xmpmeta>"#
    )
}

fn wrapped(description: &str) -> String {
    let described = described(description);
    format!(
        "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\n{described}\n<?xpacket end=\"r\"?>"
    )
}

/// The recipe in a packet, as JSON; `None` when there is none or the packet is no XML.
pub(super) fn recipe(packet: &[u8]) -> Option<String> {
    let mut reader = NsReader::from_str(std::str::from_utf8(packet).ok()?);
    loop {
        match reader.read_resolved_event().ok()? {
            (ResolveResult::Bound(Namespace(namespace)), Event::Start(start))
                if namespace == NAMESPACE.as_bytes() && start.local_name().as_ref() == b"recipe" =>
            {
                let text = reader.read_text(start.name()).ok()?;
                return Some(unescape(std::str::from_utf8(&text).ok()?).ok()?.into_owned());
            }
            (_, Event::Eof) => return None,
            _ => {}
        }
    }
}
