//! One client's side of the conversation: bytes in, at most one request under
//! way, bytes out. Everything is bounded, so a client can only delay itself.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use crate::api::{self, Error, ErrorCode, Reply, Request, Response};
use crate::frame::{self, FrameError};

/// A frame that was begun must be complete by then.
const FRAME_TIMEOUT: Duration = Duration::from_millis(800);
/// A client must take a part of its reply in this time.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Frames answered here in one go, so that a client with a flood of bad ones
/// lets others have their turn.
const ANSWERS_AT_ONCE: usize = 16;
/// Input memory that an idle client keeps.
const IDLE_CAPACITY: usize = 4096;

/// A client of the control socket. `S` is a non-blocking stream.
#[derive(Debug)]
pub(super) struct Client<S> {
    pub(super) stream: S,
    pub(super) may_change: bool,
    greeted: bool,
    /// A request was given out and awaits [`Client::reply`].
    waiting: bool,
    /// No more requests; close when the output is written.
    closing: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    /// When the present frame was begun, or the output last moved.
    since: Option<Instant>,
}

/// What [`Client::pump`] came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pumped {
    /// Nothing to do until the stream is ready again.
    Idle,
    /// It had its turn and there may be more to do.
    More,
    /// A request to carry out.
    Request(Request),
    /// The conversation is over.
    Close,
}

impl<S: Read + Write> Client<S> {
    pub(super) fn new(stream: S, may_change: bool) -> Self {
        Self {
            stream,
            may_change,
            greeted: false,
            waiting: false,
            closing: false,
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            since: None,
        }
    }

    /// Moves the conversation on as far as the stream allows.
    pub(super) fn pump(&mut self, now: Instant) -> Pumped {
        let mut answers = 0;
        loop {
            match self.write(now) {
                Ok(true) => {}
                Ok(false) => return Pumped::Idle,
                Err(_) => return Pumped::Close,
            }
            if self.closing {
                return Pumped::Close;
            }
            if self.waiting {
                return Pumped::Idle;
            }
            if answers == ANSWERS_AT_ONCE {
                return Pumped::More;
            }
            match frame::decode(&self.input, self.most()) {
                Ok(Some(json)) => {
                    let used = frame::HEADER + json.len();
                    let request = serde_json::from_slice::<Request>(json);
                    self.consume(used, now);
                    if let Some(request) = self.judge(request) {
                        self.waiting = true;
                        return Pumped::Request(request);
                    }
                    answers += 1;
                }
                Ok(None) => match self.read(now) {
                    Ok(0) | Err(ErrorKind::ConnectionReset) => return Pumped::Close,
                    Ok(_) => {}
                    Err(ErrorKind::WouldBlock) => return Pumped::Idle,
                    Err(ErrorKind::Interrupted) => {}
                    Err(_) => return Pumped::Close,
                },
                Err(error) => self.refuse(&error),
            }
        }
    }

    /// The longest frame that is read. Who may change things may have the
    /// daemon keep as much as it likes anyway.
    fn most(&self) -> usize {
        if self.greeted && self.may_change { api::MAX_RESTORE } else { api::MAX_REQUEST }
    }

    /// Answers the request that was given out.
    pub(super) fn reply(&mut self, reply: &Reply) {
        self.waiting = false;
        self.send(reply);
    }

    /// When the client has to have moved on, if it has to.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.waiting {
            return None;
        }
        let limit = if self.output.is_empty() { FRAME_TIMEOUT } else { WRITE_TIMEOUT };
        self.since.map(|since| since + limit)
    }

    /// To be called when the deadline has passed.
    pub(super) fn expire(&mut self) {
        if self.output.is_empty() {
            let message = "the request was begun but not finished in time";
            self.send(&Err(Error::new(ErrorCode::TimedOut, message)));
        } else {
            // It does not take its reply: drop what is left.
            self.output.clear();
        }
        self.closing = true;
    }

    /// What to do about a frame's content. `None` when it was answered here.
    fn judge(&mut self, request: serde_json::Result<Request>) -> Option<Request> {
        let request = match request {
            Ok(request) => request,
            Err(error) => {
                let error = Error::new(ErrorCode::BadRequest, format!("bad request: {error}"));
                self.closing = !self.greeted;
                self.send(&Err(error));
                return None;
            }
        };
        if let Request::Hello { version } = request {
            self.hello(version);
            return None;
        }
        if !self.greeted {
            self.closing = true;
            let message = "the first request must be hello";
            self.send(&Err(Error::new(ErrorCode::BadRequest, message)));
            return None;
        }
        if request.changes() && !self.may_change {
            let message = "you may look but not change; root and members of control.group may";
            self.send(&Err(Error::new(ErrorCode::Permission, message)));
            return None;
        }
        Some(request)
    }

    fn hello(&mut self, version: u32) {
        if version == api::VERSION {
            self.greeted = true;
            return self.send(&Ok(Response::Hello {
                version: api::VERSION,
                daemon: env!("CARGO_PKG_VERSION").into(),
                may_change: self.may_change,
            }));
        }
        self.closing = true;
        let ours = api::VERSION;
        let message = format!(
            "the client speaks version {version} of the control API, this rvsd version {ours}; install the same release of both"
        );
        self.send(&Err(Error::new(ErrorCode::Version, message)));
    }

    fn refuse(&mut self, error: &FrameError) {
        self.closing = true;
        self.send(&Err(Error::new(ErrorCode::TooLong, error.to_string())));
    }

    fn send(&mut self, reply: &Reply) {
        // Replies are made here; that one cannot be encoded would be a defect
        // that the client should hear of rather than wait.
        let frame = frame::encode(reply, api::MAX_REPLY).unwrap_or_else(|error| {
            let reply: Reply = Err(Error::new(ErrorCode::NoSpace, error.to_string()));
            frame::encode(&reply, api::MAX_REPLY).expect("a short message has a frame")
        });
        self.output.extend_from_slice(&frame);
    }

    /// Whether all output is written.
    fn write(&mut self, now: Instant) -> std::io::Result<bool> {
        if self.output.is_empty() {
            return Ok(true);
        }
        self.since.get_or_insert(now);
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.written += n;
                    self.since = Some(now);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output = Vec::new();
        self.written = 0;
        self.since = (!self.input.is_empty()).then_some(now);
        Ok(true)
    }

    fn read(&mut self, now: Instant) -> Result<usize, ErrorKind> {
        let mut chunk = [0; 16 * 1024];
        let n = self.stream.read(&mut chunk).map_err(|error| error.kind())?;
        if n > 0 {
            self.since.get_or_insert(now);
            self.input.extend_from_slice(&chunk[..n]);
        }
        Ok(n)
    }

    fn consume(&mut self, used: usize, now: Instant) {
        self.input.drain(..used);
        if self.input.is_empty() && self.input.capacity() > IDLE_CAPACITY {
            self.input = Vec::new();
        }
        self.since = (!self.input.is_empty()).then_some(now);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (UnixStream, Client<UnixStream>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        ours.set_nonblocking(true).unwrap();
        (ours, Client::new(theirs, true))
    }

    fn frame_of(request: &Request) -> Vec<u8> {
        frame::encode(request, api::MAX_REQUEST).unwrap()
    }

    fn hello() -> Vec<u8> {
        frame_of(&Request::Hello { version: api::VERSION })
    }

    fn answers(mut ours: &UnixStream) -> Vec<Reply> {
        let mut bytes = Vec::new();
        let _ = ours.read_to_end(&mut bytes);
        let mut replies = Vec::new();
        let mut rest = &bytes[..];
        while let Ok(Some(json)) = frame::decode(rest, api::MAX_REPLY) {
            replies.push(serde_json::from_slice(json).unwrap());
            rest = &rest[frame::HEADER + json.len()..];
        }
        assert!(rest.is_empty(), "half an answer");
        replies
    }

    fn codes(ours: &UnixStream) -> Vec<Result<(), ErrorCode>> {
        answers(ours).into_iter().map(|r| r.map(drop).map_err(|e| e.code)).collect()
    }

    #[test]
    fn requests_come_one_at_a_time_and_are_answered_in_order() {
        let (mut ours, mut client) = pair();
        let now = Instant::now();
        let bytes =
            [hello(), frame_of(&Request::Timeouts {}), frame_of(&Request::Flush {})].concat();
        ours.write_all(&bytes).unwrap();
        assert_eq!(client.pump(now), Pumped::Request(Request::Timeouts {}));
        assert_eq!(client.pump(now), Pumped::Idle);
        client.reply(&Ok(Response::Done));
        assert_eq!(client.pump(now), Pumped::Request(Request::Flush {}));
        client.reply(&Ok(Response::Done));
        assert_eq!(client.pump(now), Pumped::Idle);
        assert_eq!(codes(&ours), [Ok(()), Ok(()), Ok(())]);
        assert_eq!(client.deadline(), None);
    }

    #[test]
    fn a_frame_in_many_pieces_is_one_request() {
        let (mut ours, mut client) = pair();
        let now = Instant::now();
        let bytes = [hello(), frame_of(&Request::Flush {})].concat();
        for (i, byte) in bytes.iter().enumerate() {
            ours.write_all(&[*byte]).unwrap();
            let expected = if i + 1 == bytes.len() {
                Pumped::Request(Request::Flush {})
            } else {
                Pumped::Idle
            };
            assert_eq!(client.pump(now), expected, "byte {i}");
        }
    }

    #[test]
    fn bad_json_is_answered_and_the_conversation_goes_on() {
        let (mut ours, mut client) = pair();
        ours.write_all(&hello()).unwrap();
        ours.write_all(b"\0\0\0\x05{oops").unwrap();
        ours.write_all(&frame_of(&Request::Flush {})).unwrap();
        assert_eq!(client.pump(Instant::now()), Pumped::Request(Request::Flush {}));
        assert_eq!(codes(&ours), [Ok(()), Err(ErrorCode::BadRequest)]);
    }

    /// A peer that sends one frame over and over, and takes every answer.
    struct Endless(Vec<u8>);

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let n = buffer.len() / self.0.len() * self.0.len();
            buffer[..n].chunks_mut(self.0.len()).for_each(|frame| frame.copy_from_slice(&self.0));
            Ok(n)
        }
    }

    impl Write for Endless {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_flood_of_what_is_answered_here_comes_to_an_end() {
        let mut client = Client::new(Endless(hello()), true);
        for _ in 0..100 {
            assert_eq!(client.pump(Instant::now()), Pumped::More);
        }
        client.stream.0 = frame_of(&Request::Flush {});
        let mut pumped = Pumped::More;
        // What was read before is answered first.
        for _ in 0..100 {
            pumped = client.pump(Instant::now());
            if pumped != Pumped::More {
                break;
            }
        }
        assert_eq!(pumped, Pumped::Request(Request::Flush {}));
    }

    #[test]
    fn who_may_change_may_send_more() {
        for (may_change, most) in [(false, api::MAX_REQUEST), (true, api::MAX_RESTORE)] {
            for (length, expected) in [(most, Pumped::Idle), (most + 1, Pumped::Close)] {
                let (mut ours, mut client) = pair();
                client.may_change = may_change;
                ours.write_all(&hello()).unwrap();
                ours.write_all(&(length as u32).to_be_bytes()).unwrap();
                let pumped = client.pump(Instant::now());
                assert_eq!(pumped, expected, "{may_change} {length}");
            }
        }
    }

    #[test]
    fn what_ends_a_conversation() {
        let oversized = (api::MAX_REQUEST as u32 + 1).to_be_bytes().to_vec();
        for (bytes, code) in [
            (frame_of(&Request::Flush {}), ErrorCode::BadRequest),
            (b"\0\0\0\x05{oops".to_vec(), ErrorCode::BadRequest),
            (frame_of(&Request::Hello { version: 99 }), ErrorCode::Version),
            (oversized, ErrorCode::TooLong),
        ] {
            let (mut ours, mut client) = pair();
            ours.write_all(&bytes).unwrap();
            assert_eq!(client.pump(Instant::now()), Pumped::Close, "{code:?}");
            drop(client);
            assert_eq!(codes(&ours), [Err(code)]);
        }
    }

    #[test]
    fn half_a_frame_is_given_up_within_a_second() {
        let (mut ours, mut client) = pair();
        let now = Instant::now();
        ours.write_all(&[hello(), vec![0, 0]].concat()).unwrap();
        assert_eq!(client.pump(now), Pumped::Idle);
        let deadline = client.deadline().expect("a frame is begun");
        assert!(deadline - now < Duration::from_secs(1));
        // More of the same frame does not put it off.
        ours.write_all(&[0]).unwrap();
        assert_eq!(client.pump(now + Duration::from_millis(700)), Pumped::Idle);
        assert_eq!(client.deadline(), Some(deadline));
        client.expire();
        assert_eq!(client.pump(deadline), Pumped::Close);
        drop(client);
        assert_eq!(codes(&ours), [Ok(()), Err(ErrorCode::TimedOut)]);
    }

    #[test]
    fn a_client_that_does_not_read_is_given_up() {
        let (mut ours, mut client) = pair();
        let now = Instant::now();
        ours.write_all(&[hello(), frame_of(&Request::Flush {})].concat()).unwrap();
        assert_eq!(client.pump(now), Pumped::Request(Request::Flush {}));
        let long = Error::new(ErrorCode::NoSpace, "x".repeat(4 << 20));
        client.reply(&Err(long));
        assert_eq!(client.pump(now), Pumped::Idle);
        assert_eq!(client.deadline(), Some(now + WRITE_TIMEOUT));
        client.expire();
        assert_eq!(client.pump(now), Pumped::Close);
    }

    #[test]
    fn who_may_only_look_changes_nothing() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut client = Client::new(theirs, false);
        ours.write_all(&[hello(), frame_of(&Request::Flush {})].concat()).unwrap();
        ours.write_all(&frame_of(&Request::Counters {})).unwrap();
        assert_eq!(client.pump(Instant::now()), Pumped::Request(Request::Counters {}));
        assert_eq!(codes(&ours), [Ok(()), Err(ErrorCode::Permission)]);
    }
}
