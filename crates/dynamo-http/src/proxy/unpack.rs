//! Unpacks request bodies that have a content coding, within the limits of bodies.
//!
//! The limit of one body holds for its unpacked size, and all memory that unpacking takes is counted:
//! the packed body, the decoder's window, and the unpacked body. Unpacking gives others a turn after
//! each piece.

use std::io::{self, Read};

use flate2::read::{MultiGzDecoder, ZlibDecoder};
use http::StatusCode;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::body::{BodyLimits, Buffer, InMemory, Length, too_large};
use super::coding::Coding;
use crate::error::ApiError;

/// How much is unpacked before others get a turn.
const PIECE: usize = 64 * 1024;
/// The largest window of zstd in HTTP (RFC 9659).
const ZSTD_WINDOW: usize = 8 << 20;

impl Coding {
    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
            Self::Brotli => "br",
        }
    }

    /// The most memory that the decoder takes by itself.
    fn window(self) -> usize {
        match self {
            Self::Gzip | Self::Deflate => 64 << 10,
            Self::Zstd => ZSTD_WINDOW,
            Self::Brotli => 16 << 20,
        }
    }

    fn decoder(self, packed: &[u8]) -> Box<dyn Read + Send + '_> {
        match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Self::Deflate => Box::new(ZlibDecoder::new(packed)),
            Self::Zstd => Box::new(Frames::new(packed)),
            Self::Brotli => Box::new(brotli_decompressor::Decompressor::new(packed, 4096)),
        }
    }
}

impl BodyLimits {
    /// Unpacks a body.
    ///
    /// # Errors
    ///
    /// 413 when it is too large unpacked, 503 when all bodies together would take too much, 400 when
    /// it is not in this coding.
    pub(super) async fn unpack<'a>(
        &'a self,
        coding: Coding,
        packed: InMemory<'a>,
    ) -> Result<InMemory<'a>, ApiError> {
        let each = self.each.now();
        let _window = self.memory.reserve(coding.window() + PIECE)?;
        let mut decoder = coding.decoder(&packed.bytes);
        let mut piece = vec![0; PIECE];
        let mut unpacked = Buffer::new(&self.memory);
        loop {
            let read = decoder.read(&mut piece).map_err(|_| {
                let message = format!("The request body is not valid {}.", coding.name());
                ApiError::new(StatusCode::BAD_REQUEST, message)
            })?;
            if read == 0 {
                return Ok(unpacked.into_body());
            }
            if unpacked.len() + read > each {
                return Err(too_large(each));
            }
            unpacked.extend(&piece[..read], Length::AtMost(each))?;
            tokio::task::yield_now().await;
        }
    }
}

/// All frames of a zstd body, one after the other (RFC 8878 section 3).
struct Frames<'a> {
    rest: &'a [u8],
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<'a> Frames<'a> {
    fn new(packed: &'a [u8]) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(ZSTD_WINDOW as u64);
        Self { rest: packed, decoder, in_frame: false }
    }

    /// Begins the next frame that has content. False when there is none.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.rest.is_empty() {
            match self.decoder.reset(&mut self.rest) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let rest = self.rest.get(length as usize..);
                    self.rest = rest.ok_or(io::ErrorKind::UnexpectedEof)?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl Read for Frames<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame {
                self.in_frame = self.begin()?;
                if !self.in_frame {
                    return Ok(0);
                }
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.rest, one).map_err(io::Error::other)?;
            }
            let read = self.decoder.read(buf)?;
            if read > 0 {
                return Ok(read);
            }
            self.in_frame = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Duration;

    use bytes::Bytes;
    use flate2::Compression;
    use proptest::prelude::*;

    use super::super::body::Memory;
    use super::*;
    use crate::live::Live;

    const ALL: [Coding; 4] = [Coding::Gzip, Coding::Deflate, Coding::Zstd, Coding::Brotli];

    fn pack(coding: Coding, data: &[u8]) -> Vec<u8> {
        let best = Compression::best();
        match coding {
            Coding::Gzip => {
                let mut packer = flate2::write::GzEncoder::new(Vec::new(), best);
                packer.write_all(data).unwrap();
                packer.finish().unwrap()
            }
            Coding::Deflate => {
                let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), best);
                packer.write_all(data).unwrap();
                packer.finish().unwrap()
            }
            Coding::Zstd => {
                let level = ruzstd::encoding::CompressionLevel::Fastest;
                ruzstd::encoding::compress_to_vec(data, level)
            }
            // Meta-blocks that are not compressed, with a window of 64 KiB (RFC 7932 section 9.2).
            Coding::Brotli => {
                let mut packed = Vec::new();
                let mut window_bits = 1;
                for block in data.chunks(1 << 16) {
                    let header = ((block.len() as u64 - 1) << 3 | 1 << 19) << window_bits;
                    assert_eq!(window_bits, 1, "one block only");
                    packed.extend_from_slice(&header.to_le_bytes()[..3]);
                    packed.extend_from_slice(block);
                    window_bits = 0;
                }
                packed.push(if data.is_empty() { 6 } else { 3 });
                packed
            }
        }
    }

    fn limits(each: usize, all: usize) -> BodyLimits {
        BodyLimits {
            each: Live::new(each),
            stall: Live::new(Duration::from_secs(30)),
            memory: Memory::new(all),
        }
    }

    fn unpack(limits: &BodyLimits, coding: Coding, packed: &[u8]) -> Result<Bytes, ApiError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let body = axum::body::Body::from(packed.to_vec());
            let packed = limits.read(body).await.unwrap();
            limits.unpack(coding, packed).await.map(|body| body.bytes)
        })
    }

    #[test]
    fn a_body_is_bounded_by_its_unpacked_size_and_gives_its_memory_back() {
        let all = 64 << 20;
        for coding in [Coding::Gzip, Coding::Deflate, Coding::Zstd] {
            let bomb = pack(coding, &vec![b'x'; 4 << 20]);
            assert!(bomb.len() < 100_000, "{coding:?}: {}", bomb.len());
            let small = limits((4 << 20) - 1, all);
            let error = unpack(&small, coding, &bomb).unwrap_err();
            assert_eq!(error.status(), StatusCode::PAYLOAD_TOO_LARGE, "{coding:?}");
            let enough = limits(4 << 20, all);
            assert_eq!(unpack(&enough, coding, &bomb).unwrap().len(), 4 << 20);
            let poor = limits(4 << 20, coding.window() + (2 << 20));
            let error = unpack(&poor, coding, &bomb).unwrap_err();
            assert_eq!(error.status(), StatusCode::SERVICE_UNAVAILABLE, "{coding:?}");
            for (limits, all) in [(small, all), (enough, all), (poor, coding.window() + (2 << 20))]
            {
                assert!(limits.memory.reserve(all).is_ok(), "{coding:?}");
            }
        }
    }

    #[test]
    fn a_body_that_ends_too_early_or_is_in_no_coding_is_refused() {
        let limits = limits(1 << 20, 64 << 20);
        for coding in ALL {
            let packed = pack(coding, &b"0123456789".repeat(100));
            for broken in [&packed[..packed.len() - 1], &packed[..packed.len() / 2], b"{}"] {
                let error = unpack(&limits, coding, broken).unwrap_err();
                assert_eq!(error.status(), StatusCode::BAD_REQUEST, "{coding:?}");
            }
        }
    }

    #[test]
    fn zstd_may_have_several_frames_and_some_to_skip_but_no_window_over_8_mib() {
        let limits = limits(1 << 20, 64 << 20);
        let frame = |text: &str| pack(Coding::Zstd, text.as_bytes());
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        let all = [&frame("{"), &skipped[..], &frame(""), &frame("}"), &skipped].concat();
        assert_eq!(unpack(&limits, Coding::Zstd, &all).unwrap(), "{}");
        // A frame of one empty raw block, with a window of 8 MiB and of 9 MiB.
        for (window, is_read) in [(13 << 3, true), (13 << 3 | 1, false)] {
            let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, window, 1, 0, 0];
            assert_eq!(unpack(&limits, Coding::Zstd, &frame).is_ok(), is_read);
        }
    }

    proptest! {
        #[test]
        fn what_was_packed_is_what_is_unpacked(
            data in proptest::collection::vec(any::<u8>(), 0..3000),
        ) {
            let limits = limits(1 << 20, 64 << 20);
            for coding in ALL {
                let unpacked = unpack(&limits, coding, &pack(coding, &data));
                prop_assert_eq!(unpacked.unwrap(), &data[..], "{:?}", coding);
            }
        }

        #[test]
        fn no_bytes_make_unpacking_panic(
            noise in proptest::collection::vec(any::<u8>(), 0..200),
            at in any::<proptest::sample::Index>(),
        ) {
            let limits = limits(1 << 20, 64 << 20);
            for coding in ALL {
                let mut packed = pack(coding, &b"0123456789".repeat(20));
                let at = at.index(packed.len());
                packed.splice(at.., noise.iter().copied());
                let _ = unpack(&limits, coding, &packed);
                let _ = unpack(&limits, coding, &noise);
            }
        }
    }
}
