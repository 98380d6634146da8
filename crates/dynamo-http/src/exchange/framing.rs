//! Where the body of an answer ends, and which of the bytes that came are its data.
//!
//! RFC 9112 sections 6 and 7.

use bytes::Bytes;
use httparse::Status;

use super::error::Error;

/// How many trailers an answer may have.
const MAX_TRAILERS: usize = 32;
/// How long the size of a chunk with its extensions may be, and how long all trailers together, in bytes.
const MAX_LINES: usize = 8 * 1024;

/// What is still to come of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// Nothing.
    Ended,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Chunk),
    /// What comes before the connection ends.
    Close,
}

/// What comes next in a body of chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// The size of a chunk.
    Size,
    /// So many bytes of a chunk; never none.
    Data(u64),
    /// The end of its line.
    End,
    /// Trailers, which are dropped (RFC 9110 section 6.5.1), and the end of the body.
    Trailers,
}

impl Framing {
    /// A body of so many bytes.
    pub(super) fn of_length(length: u64) -> Self {
        if length == 0 { Self::Ended } else { Self::Length(length) }
    }

    /// A body of chunks.
    pub(super) const CHUNKED: Self = Self::Chunked(Chunk::Size);

    /// Takes all that these bytes have for the body. Returns how many bytes were used, and the data in
    /// them. What is left is a piece of framing whose rest has not come, or does not belong to the body,
    /// or is malformed behind good data: then it is refused when it is taken again.
    ///
    /// # Errors
    ///
    /// [`Error::Chunk`].
    pub(super) fn take(&mut self, input: &[u8]) -> Result<(usize, Bytes), Error> {
        let mut rest = input;
        let first = self.next(&mut rest)?;
        let mut more = |rest: &mut _| self.next(rest).unwrap_or_default();
        // Mostly there is one piece.
        let second = if first.is_empty() { first } else { more(&mut rest) };
        if second.is_empty() {
            return Ok((input.len() - rest.len(), Bytes::copy_from_slice(first)));
        }
        let mut data = Vec::with_capacity(first.len() + second.len() + rest.len());
        data.extend_from_slice(first);
        let mut piece = second;
        while !piece.is_empty() {
            data.extend_from_slice(piece);
            piece = more(&mut rest);
        }
        Ok((input.len() - rest.len(), data.into()))
    }

    /// The next data at the beginning of these bytes, behind framing that is cut off. Nothing where the
    /// body has ended or more has to come first.
    fn next<'a>(&mut self, rest: &mut &'a [u8]) -> Result<&'a [u8], Error> {
        loop {
            match *self {
                Self::Ended => return Ok(&[]),
                Self::Close => return Ok(std::mem::take(rest)),
                Self::Length(length) => {
                    let (data, left) = cut(rest, length);
                    *self = Self::of_length(left);
                    return Ok(data);
                }
                Self::Chunked(Chunk::Data(length)) => {
                    let (data, left) = cut(rest, length);
                    *self = Self::Chunked(if left == 0 { Chunk::End } else { Chunk::Data(left) });
                    return Ok(data);
                }
                Self::Chunked(Chunk::Size) => {
                    let Some((used, size)) = size(rest)? else { return Ok(&[]) };
                    *rest = &rest[used..];
                    let next = if size == 0 { Chunk::Trailers } else { Chunk::Data(size) };
                    *self = Self::Chunked(next);
                }
                Self::Chunked(Chunk::End) => match rest {
                    [b'\r', b'\n', later @ ..] => {
                        *rest = later;
                        *self = Self::CHUNKED;
                    }
                    [] | [b'\r'] => return Ok(&[]),
                    _ => return Err(Error::Chunk),
                },
                Self::Chunked(Chunk::Trailers) => {
                    let Some(used) = trailers(rest)? else { return Ok(&[]) };
                    *rest = &rest[used..];
                    *self = Self::Ended;
                }
            }
        }
    }
}

/// Cuts off at most `length` bytes. Returns them, and how many are missing.
fn cut<'a>(rest: &mut &'a [u8], length: u64) -> (&'a [u8], u64) {
    let there = usize::try_from(length).map_or(rest.len(), |length| length.min(rest.len()));
    let (data, later) = rest.split_at(there);
    *rest = later;
    (data, length - there as u64)
}

/// The length of the line with the size of a chunk, and the size, if the line is all there.
fn size(input: &[u8]) -> Result<Option<(usize, u64)>, Error> {
    // httparse takes a line without a digit for a size of zero.
    if input.first().is_some_and(|byte| !byte.is_ascii_hexdigit()) {
        return Err(Error::Chunk);
    }
    let size = httparse::parse_chunk_size(input).map_err(|_| Error::Chunk)?;
    whole_lines(input, size)
}

/// The length of the trailers, with the empty line that ends them, if they are all there.
fn trailers(input: &[u8]) -> Result<Option<usize>, Error> {
    if input.starts_with(b"\r\n") {
        return Ok(Some(2));
    }
    let mut trailers = [httparse::EMPTY_HEADER; MAX_TRAILERS];
    let trailers = httparse::parse_headers(input, &mut trailers).map_err(|_| Error::Chunk)?;
    Ok(whole_lines(input, trailers)?.map(|(used, _)| used))
}

/// What was parsed at the beginning of the input, unless it is too long, or a line ends without CR:
/// httparse takes that between trailers and within an extension.
fn whole_lines<T>(input: &[u8], parsed: Status<(usize, T)>) -> Result<Option<(usize, T)>, Error> {
    let (length, parsed) = match parsed {
        Status::Complete((used, parsed)) => (used, Some((used, parsed))),
        Status::Partial => (input.len(), None),
    };
    // Lines are short, so a search for LF would cost more than this look at each byte.
    let mut bytes = input[..length].iter().enumerate();
    let ends_well = bytes.all(|(at, byte)| *byte != b'\n' || input[..at].ends_with(b"\r"));
    if length <= MAX_LINES && ends_well { Ok(parsed) } else { Err(Error::Chunk) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is left of the framing, the data, and the bytes behind the body, of input in pieces.
    fn take(mut framing: Framing, pieces: &[&[u8]]) -> Result<(Framing, Vec<u8>, Vec<u8>), Error> {
        let (mut data, mut unused) = (Vec::new(), Vec::new());
        for piece in pieces {
            unused.extend_from_slice(piece);
            let (used, more) = framing.take(&unused)?;
            unused.drain(..used);
            data.extend_from_slice(&more);
        }
        // What is malformed behind good data is refused when it is taken again.
        let (used, more) = framing.take(&unused)?;
        assert_eq!((used, &*more), (0, &b""[..]));
        Ok((framing, data, unused))
    }

    #[test]
    fn a_body_ends_with_its_length_and_what_follows_is_left() {
        let (framing, data, rest) = take(Framing::of_length(3), &[b"a", b"bcd"]).unwrap();
        assert_eq!((framing, &*data, &*rest), (Framing::Ended, &b"abc"[..], &b"d"[..]));
        let (framing, data, rest) = take(Framing::of_length(0), &[b"d"]).unwrap();
        assert_eq!((framing, &*data, &*rest), (Framing::Ended, &b""[..], &b"d"[..]));
        let (framing, data, _) = take(Framing::of_length(u64::MAX), &[b"ab"]).unwrap();
        assert_eq!((framing, &*data), (Framing::Length(u64::MAX - 2), &b"ab"[..]));
    }

    #[test]
    fn chunks_end_with_the_empty_one_and_its_trailers() {
        let body = b"3\r\nabc\r\n0a;x=\"y\"\r\n0123456789\r\n0\r\nx: 1\r\n\r\nHTTP";
        let (framing, data, rest) = take(Framing::CHUNKED, &[body]).unwrap();
        assert_eq!(framing, Framing::Ended);
        assert_eq!((&*data, &*rest), (&b"abc0123456789"[..], &b"HTTP"[..]));
    }

    #[test]
    fn a_malformed_chunk_is_refused() {
        for body in [
            "\r\n",
            ";a=b\r\n\r\n",
            " \r\n",
            "g\r\n",
            "+3\r\nabc\r\n",
            "-3\r\nabc\r\n",
            "0x3\r\nabc\r\n",
            "3\nabc\n",
            "3\r\nabcd\r\n",
            "3\r\nabc\n",
            "11111111111111111\r\n",
            "0\r\n x\r\n\r\n",
            "0\r\n\n",
            "1;\n\r\na\r\n0\r\n\r\n",
            "1;\n",
            "0\r\nx: y\n\r\n",
        ] {
            let taken = take(Framing::CHUNKED, &[body.as_bytes()]);
            assert!(matches!(taken, Err(Error::Chunk)), "{body:?}: {taken:?}");
        }
    }

    #[test]
    fn lines_between_data_have_an_end() {
        let long = "a".repeat(MAX_LINES);
        for (before, behind) in [("3;", "\r\nabc\r\n0\r\n\r\n"), ("0\r\na: ", "\r\n\r\n")] {
            let body = |length: usize| format!("{before}{}{behind}", &long[..length]);
            for piece in [100, MAX_LINES * 2] {
                let all = |length| {
                    let body = body(length);
                    let pieces: Vec<&[u8]> = body.as_bytes().chunks(piece).collect();
                    take(Framing::CHUNKED, &pieces)
                };
                assert_eq!(all(MAX_LINES - 20).unwrap().0, Framing::Ended);
                assert!(matches!(all(MAX_LINES), Err(Error::Chunk)));
            }
        }
    }

    #[test]
    fn what_was_good_before_a_malformed_chunk_is_not_lost() {
        let mut framing = Framing::CHUNKED;
        let input = b"1\r\na\r\n1\r\nb\r\nno";
        let (used, data) = framing.take(input).unwrap();
        assert_eq!((used, &*data), (input.len() - 2, &b"ab"[..]));
        assert!(matches!(framing.take(&input[used..]), Err(Error::Chunk)));
    }

    #[test]
    fn what_ends_with_the_connection_has_no_end_of_its_own() {
        let (framing, data, rest) = take(Framing::Close, &[b"0\r\n\r\n", b"a"]).unwrap();
        assert_eq!((framing, &*data, &*rest), (Framing::Close, &b"0\r\n\r\na"[..], &b""[..]));
    }

    proptest! {
        #[test]
        fn where_chunks_are_cut_does_not_matter(
            chunks in proptest::collection::vec("[a-z\r\n0]{1,20}", 0..5),
            trailer in "(x: [a-z]{0,5}\r\n){0,3}",
            behind in "(HTTP/1.1)?",
            cuts in proptest::collection::vec(1_usize..9, 1..20),
        ) {
            let mut body: String =
                chunks.iter().map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len())).collect();
            body = format!("{body}0\r\n{trailer}\r\n{behind}");
            let mut pieces = Vec::new();
            let mut rest = body.as_bytes();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, later) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = later;
            }
            let (framing, data, rest) = take(Framing::CHUNKED, &pieces).unwrap();
            prop_assert_eq!(framing, Framing::Ended);
            prop_assert_eq!(data, chunks.concat().into_bytes());
            prop_assert_eq!(rest, behind.into_bytes());
        }

        #[test]
        fn no_bytes_make_more_data_than_they_are(
            pieces in proptest::collection::vec("[0-3a;:x \r\n]{0,12}", 0..8),
        ) {
            let pieces: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
            let came: usize = pieces.iter().map(|piece| piece.len()).sum();
            if let Ok((_, data, rest)) = take(Framing::CHUNKED, &pieces) {
                prop_assert!(data.len() + rest.len() <= came);
            }
        }
    }
}
