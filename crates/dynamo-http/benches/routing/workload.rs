//! Seeded open-loop workloads: which prompt comes when.

use std::error::Error;
use std::path::Path as File;
use std::sync::Arc;

use dynamo_http::placement::{Path, Seed};
use fastrand::Rng;

use crate::engine::BLOCK;

/// The bytes of a token's text.
const BYTES_PER_TOKEN: usize = 4;

/// Text of so many tokens. Pieces of the same name have the same tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    name: u64,
    tokens: usize,
}

/// A request.
#[derive(Debug)]
pub(crate) struct Request {
    /// When it comes, in seconds.
    pub(crate) at: f64,
    /// Tokens of the prompt.
    pub(crate) prompt: usize,
    /// Tokens of the answer.
    pub(crate) output: usize,
    /// The hashes of the full blocks of prompt and answer, as an engine has them.
    pub(crate) blocks: Vec<u64>,
    /// The path of the prompt, as the product makes it.
    pub(crate) path: Path,
    /// The first bytes of the messages, which are the key of affinity.
    pub(crate) beginning: u64,
    tools: Vec<Piece>,
    messages: Vec<Piece>,
}

impl Request {
    /// The texts of the tools.
    pub(crate) fn tools(&self) -> impl Iterator<Item = String> {
        self.tools.iter().map(Piece::text)
    }

    /// The texts of the messages.
    pub(crate) fn messages(&self) -> impl ExactSizeIterator<Item = String> {
        self.messages.iter().map(Piece::text)
    }
}

/// A workload.
pub(crate) struct Workload {
    pub(crate) requests: Vec<Arc<Request>>,
}

/// The kinds of workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Conversations on one system prompt.
    Chats,
    /// The same, more of them than fit.
    Overload,
    /// Questions about long documents.
    Documents,
    /// Agents, whose long preamble is in the system prompt.
    Agents,
    /// Agents, whose long preamble is in the tools.
    Tools,
    /// One prefix that most requests have.
    Hot,
    /// Prompts that have nothing in common.
    Nothing,
}

/// The workloads by name, and the engines for each.
pub(crate) const CELLS: [(&str, Kind, usize); 9] = [
    ("chats", Kind::Chats, 4),
    ("overload", Kind::Overload, 4),
    ("chats-8", Kind::Chats, 8),
    ("documents", Kind::Documents, 4),
    ("agents", Kind::Agents, 4),
    ("agents-tools", Kind::Tools, 4),
    ("agents-8", Kind::Agents, 8),
    ("hot-prefix", Kind::Hot, 4),
    ("nothing-shared", Kind::Nothing, 4),
];

struct Writer {
    rng: Rng,
    requests: Vec<Request>,
    next: u64,
}

impl Workload {
    /// The requests of a kind for a number of engines.
    pub(crate) fn new(kind: Kind, engines: usize, seed: u64, scale: f64) -> Self {
        let mut writer =
            Writer { rng: Rng::with_seed(seed), requests: Vec::new(), next: seed << 32 };
        let load = engines as f64 / 4.0 * scale;
        match kind {
            Kind::Chats => writer.chats(2.5 * load, 240.0),
            Kind::Overload => writer.chats(3.4 * load, 200.0),
            Kind::Documents => writer.documents(5.0 * load, (52.0 * engines as f64 / 4.0) as usize),
            Kind::Agents => writer.agents(1.1 * load, false),
            Kind::Tools => writer.agents(1.1 * load, true),
            Kind::Hot => writer.hot(16.0 * load),
            Kind::Nothing => writer.nothing(9.0 * load),
        }
        writer.end()
    }

    /// The requests of a trace in Mooncake's format: a line is an object with `timestamp` in
    /// milliseconds, `input_length`, `output_length` and `hash_ids`, one for each 512 tokens.
    pub(crate) fn trace(text: &str, stretch: f64) -> Result<Self, Box<dyn Error>> {
        let mut writer = Writer { rng: Rng::with_seed(0), requests: Vec::new(), next: 1 << 40 };
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line)?;
            let number = |name: &str| {
                line[name].as_u64().ok_or_else(|| format!("no number {name:?} in {line}"))
            };
            let ids = line["hash_ids"].as_array().ok_or("no hash_ids")?;
            let mut left = number("input_length")? as usize;
            let mut pieces = Vec::new();
            for id in ids {
                let tokens = left.min(512);
                left -= tokens;
                pieces.push(Piece { name: id.as_u64().ok_or("no number in hash_ids")?, tokens });
            }
            let output = number("output_length")?.max(1) as usize;
            let answer = writer.piece(output);
            let at = number("timestamp")? as f64 / 1000.0 * stretch;
            writer.request(at, &[], &pieces, answer);
        }
        Ok(writer.end())
    }

    pub(crate) fn read(file: &File, stretch: f64) -> Result<Self, Box<dyn Error>> {
        Self::trace(&std::fs::read_to_string(file)?, stretch)
    }
}

impl Writer {
    fn end(mut self) -> Workload {
        self.requests.sort_by(|one, other| one.at.total_cmp(&other.at));
        Workload { requests: self.requests.into_iter().map(Arc::new).collect() }
    }

    fn name(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn piece(&mut self, tokens: usize) -> Piece {
        Piece { name: self.name(), tokens }
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.rng.f64()).ln()
    }

    /// A length around a median, with a long tail.
    fn length(&mut self, median: f64, spread: f64, most: usize) -> usize {
        let normal: f64 = (0..12).map(|_| self.rng.f64()).sum::<f64>() - 6.0;
        ((median * (spread * normal).exp()) as usize).clamp(4, most)
    }

    /// An index that is small most of the time.
    fn zipf(&mut self, count: usize, exponent: f64) -> usize {
        let weights = (1..=count).map(|n| (n as f64).powf(-exponent));
        let mut left = self.rng.f64() * weights.clone().sum::<f64>();
        weights
            .clone()
            .position(|weight| {
                left -= weight;
                left < 0.0
            })
            .unwrap_or(count - 1)
    }

    fn chats(&mut self, per_second: f64, seconds: f64) {
        let system = self.piece(900);
        let mut at = 0.0;
        while at < seconds {
            at += self.exponential(1.0 / per_second);
            let turns = 1 + self.exponential(8.0) as usize;
            self.conversation(
                at,
                &[],
                vec![system],
                turns,
                seconds,
                Turn { asked: (140.0, 1.1), answered: (110.0, 0.6), pause: 8.0 },
            );
        }
    }

    fn agents(&mut self, per_second: f64, in_tools: bool) {
        let preambles: Vec<_> = (0..3).map(|_| self.piece(8000)).collect();
        let (seconds, mut at) = (240.0, 0.0);
        while at < seconds {
            at += self.exponential(1.0 / per_second);
            let kind = self.zipf(preambles.len(), 1.0);
            let preamble = preambles[kind];
            let task = self.length(300.0, 0.8, 4000);
            let task = self.piece(task);
            let turns = 3 + self.exponential(8.0) as usize;
            let turn = Turn { asked: (220.0, 1.0), answered: (60.0, 0.5), pause: 2.5 };
            if in_tools {
                self.conversation(at, &[preamble], vec![task], turns, seconds, turn);
            } else {
                self.conversation(at, &[], vec![preamble, task], turns, seconds, turn);
            }
        }
    }

    fn conversation(
        &mut self,
        mut at: f64,
        tools: &[Piece],
        mut pieces: Vec<Piece>,
        turns: usize,
        until: f64,
        turn: Turn,
    ) {
        for _ in 0..turns {
            let asked = self.length(turn.asked.0, turn.asked.1, 6000);
            pieces.push(self.piece(asked));
            let answered = self.length(turn.answered.0, turn.answered.1, 1000);
            let answer = self.piece(answered);
            if at > until || pieces.iter().map(|one| one.tokens).sum::<usize>() > 30_000 {
                return;
            }
            self.request(at, tools, &pieces, answer);
            pieces.push(answer);
            at += answered as f64 * 0.02 + 1.0 + self.exponential(turn.pause);
        }
    }

    fn documents(&mut self, per_second: f64, count: usize) {
        let documents: Vec<_> = (0..count)
            .map(|_| {
                let tokens = self.length(11_000.0, 0.3, 24_000);
                self.piece(tokens)
            })
            .collect();
        let system = self.piece(150);
        let mut at = 0.0;
        while at < 300.0 {
            at += self.exponential(1.0 / per_second);
            let document = documents[self.zipf(count, 0.9)];
            let asked = self.length(60.0, 0.6, 500);
            let (question, answer) = (self.piece(asked), self.length(100.0, 0.5, 600));
            let answer = self.piece(answer);
            self.request(at, &[], &[system, document, question], answer);
        }
    }

    fn hot(&mut self, per_second: f64) {
        let hot = self.piece(4000);
        let cold: Vec<_> = (0..200).map(|_| self.piece(4000)).collect();
        let mut at = 0.0;
        while at < 120.0 {
            at += self.exponential(1.0 / per_second);
            let prefix =
                if self.rng.f64() < 0.7 { hot } else { cold[self.rng.usize(..cold.len())] };
            let asked = self.length(250.0, 0.6, 2000);
            let (question, answer) = (self.piece(asked), self.length(60.0, 0.5, 600));
            let answer = self.piece(answer);
            self.request(at, &[], &[prefix, question], answer);
        }
    }

    fn nothing(&mut self, per_second: f64) {
        let mut at = 0.0;
        while at < 200.0 {
            at += self.exponential(1.0 / per_second);
            let asked = self.length(1800.0, 0.5, 8000);
            let (question, answer) = (self.piece(asked), self.length(80.0, 0.5, 600));
            let answer = self.piece(answer);
            self.request(at, &[], &[question], answer);
        }
    }

    fn request(&mut self, at: f64, tools: &[Piece], rest: &[Piece], answer: Piece) {
        let all = tools.iter().chain(rest);
        let prompt = all.clone().map(|piece| piece.tokens).sum();
        let text = |pieces: &[Piece]| {
            let mut text = Vec::new();
            pieces.iter().for_each(|piece| piece.write(&mut text));
            text
        };
        let (tools_text, rest_text) = (text(tools), text(rest));
        let seed = Seed::of([&b"bench"[..], b"model"]);
        let path = Path::of(seed, &tools_text, [&rest_text[..]]);
        let beginning = rest_text[..rest_text.len().min(1024)]
            .iter()
            .fold(7, |hash, byte| mix(hash, (*byte).into()));
        let mut blocks = Vec::new();
        let (mut hash, mut tokens) = (1, 0);
        for piece in all.chain([&answer]) {
            for at in 0..piece.tokens {
                hash = mix(hash, piece.name.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ at as u64);
                tokens += 1;
                if tokens % BLOCK == 0 {
                    blocks.push(hash);
                }
            }
        }
        let (tools, messages) = (tools.to_vec(), rest.to_vec());
        let output = answer.tokens;
        let request = Request { at, prompt, output, blocks, path, beginning, tools, messages };
        self.requests.push(request);
    }
}

#[derive(Clone, Copy)]
struct Turn {
    /// Median and spread of the tokens that the client adds.
    asked: (f64, f64),
    answered: (f64, f64),
    /// Seconds between an answer and the next question, on average.
    pause: f64,
}

impl Piece {
    fn text(&self) -> String {
        let mut text = Vec::with_capacity(self.tokens * BYTES_PER_TOKEN);
        self.write(&mut text);
        String::from_utf8(text).unwrap_or_default()
    }

    fn write(&self, text: &mut Vec<u8>) {
        for at in 0..self.tokens {
            let token = mix(self.name, at as u64);
            for byte in 0..BYTES_PER_TOKEN {
                text.push(b'a' + (token >> (8 * byte)) as u8 % 26);
            }
        }
    }
}

fn mix(one: u64, other: u64) -> u64 {
    let product =
        u128::from(one ^ 0x9e37_79b9_7f4a_7c15) * u128::from(other ^ 0xd6e8_feb8_6659_fd93);
    (product >> 64) as u64 ^ product as u64
}
