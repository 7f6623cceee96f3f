//! The transport: requests out, acknowledgements and answers in.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NetlinkBuffer, NlasIterator,
};
use netlink_sys::SocketAddr;

/// The kernel interrupted a dump because what is dumped changed (`linux/netlink.h`).
const NLM_F_DUMP_INTR: u16 = 0x10;
/// The request is not repeated in an error (`linux/netlink.h`).
const NLM_F_CAPPED: u16 = 0x100;
/// Where an error's text is (`linux/netlink.h`, extended acknowledgement).
const NLMSGERR_ATTR_MSG: u16 = 1;
const HEADER: usize = 16;
/// A dump is asked again this often before giving up on a state that never stands still.
const DUMP_ATTEMPTS: usize = 10;

/// One message to the kernel, without its header.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) kind: u16,
    /// Beside `NLM_F_REQUEST`.
    pub(crate) flags: u16,
    pub(crate) body: Vec<u8>,
}

/// The kernel's refusal.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Which of the requests, if it can be told.
    pub(crate) index: Option<usize>,
    pub(crate) source: io::Error,
    /// The kernel's own words, mostly empty.
    pub(crate) text: String,
}

impl Failure {
    fn io(source: io::Error) -> Failure {
        Failure { index: None, source, text: String::new() }
    }

    pub(crate) fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }

    /// As an error of the operation `what`.
    pub(crate) fn during(self, what: impl Into<String>) -> crate::plugin::Error {
        let mut what = what.into();
        if !self.text.is_empty() {
            what = format!("{what} (kernel: {})", self.text);
        }
        crate::plugin::Error::Netlink { what, source: self.source }
    }
}

/// What came back for one sequence number.
enum Answer<'a> {
    /// Error number (0 is success) and the kernel's words.
    Ack(i32, String),
    Done,
    Data(u16, &'a [u8]),
}

/// A netlink socket in the network namespace that the calling thread was in at [`Socket::open`].
#[derive(Debug)]
pub(crate) struct Socket {
    inner: netlink_sys::Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    pub(crate) fn open(protocol: isize) -> Result<Socket, Failure> {
        let inner = netlink_sys::Socket::new(protocol).map_err(Failure::io)?;
        // Both only improve errors, and kernels that do not know them are older than what the rest needs.
        let _ = inner.set_ext_ack(true);
        let _ = inner.set_cap_ack(true);
        Ok(Socket { inner, sequence: 0, buffer: Vec::with_capacity(64 * 1024) })
    }

    /// Sends the requests in one message and waits until each is acknowledged. The first refusal is the
    /// failure; whether the others were carried out is the subsystem's matter.
    pub(crate) fn acked(&mut self, requests: &[Request]) -> Result<(), Failure> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for request in requests {
            self.encode(request, NLM_F_ACK, &mut bytes);
        }
        self.send(&bytes)?;
        let mut waiting = requests.len();
        let mut failure = None;
        while waiting > 0 {
            self.receive(|sequence, _, answer| {
                let index = sequence.wrapping_sub(first) as usize;
                if let (Answer::Ack(errno, text), true) = (answer, index < requests.len()) {
                    waiting = waiting.saturating_sub(1);
                    if errno != 0 && failure.is_none() {
                        failure = Some(refusal(Some(index), errno, text));
                    }
                }
            })?;
        }
        failure.map_or(Ok(()), Err)
    }

    /// Sends the requests between the messages `begin` and `end` of an nfnetlink batch, which the kernel
    /// carries out whole or not at all.
    pub(crate) fn batch(&mut self, begin: &Request, requests: &[Request], end: &Request) -> Result<(), Failure> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        self.encode(begin, 0, &mut bytes);
        for request in requests {
            self.encode(request, NLM_F_ACK, &mut bytes);
        }
        self.encode(end, 0, &mut bytes);
        self.send(&bytes)?;
        let mut waiting = requests.len();
        let mut failure: Option<Failure> = None;
        while waiting > 0 {
            self.receive(|sequence, _, answer| {
                let Answer::Ack(errno, text) = answer else { return };
                match sequence.wrapping_sub(first) as usize {
                    // The batch as a whole was refused: the kernel may say nothing about its members.
                    0 if errno != 0 => {
                        failure = Some(refusal(None, errno, text));
                        waiting = 0;
                    }
                    index if (1..=requests.len()).contains(&index) => {
                        waiting = waiting.saturating_sub(1);
                        if errno != 0 && failure.is_none() {
                            failure = Some(refusal(Some(index - 1), errno, text));
                        }
                    }
                    _ => {}
                }
            })?;
        }
        failure.map_or(Ok(()), Err)
    }

    /// Sends one question and gives every answer's type and body to `each`, until the kernel is done. With
    /// `dump`, all objects are listed; if they change meanwhile, the question is asked again, after `restart`.
    pub(crate) fn query<T: Default>(
        &mut self,
        request: &Request,
        dump: bool,
        mut each: impl FnMut(&mut T, u16, &[u8]),
    ) -> Result<T, Failure> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut bytes = Vec::new();
            self.encode(request, if dump { NLM_F_DUMP } else { NLM_F_ACK }, &mut bytes);
            self.send(&bytes)?;
            let wanted = self.sequence;
            let mut gathered = T::default();
            let mut outcome = None;
            let mut interrupted = false;
            while outcome.is_none() {
                self.receive(|sequence, flags, answer| {
                    if sequence != wanted {
                        return;
                    }
                    interrupted |= flags & NLM_F_DUMP_INTR != 0;
                    match answer {
                        Answer::Data(kind, body) => each(&mut gathered, kind, body),
                        Answer::Done | Answer::Ack(0, _) => outcome = Some(Ok(())),
                        Answer::Ack(errno, text) => outcome = Some(Err(refusal(None, errno, text))),
                    }
                })?;
            }
            match outcome {
                Some(Err(failure)) if failure.errno() == libc::EINTR => {}
                Some(Err(failure)) => return Err(failure),
                _ if interrupted => {}
                _ => return Ok(gathered),
            }
        }
        Err(Failure::io(io::Error::from_raw_os_error(libc::EINTR)))
    }

    fn encode(&mut self, request: &Request, flags: u16, out: &mut Vec<u8>) {
        self.sequence = self.sequence.wrapping_add(1);
        let length = HEADER + request.body.len();
        let start = out.len();
        out.resize(start + length.next_multiple_of(4), 0);
        let mut header = NetlinkBuffer::new(&mut out[start..]);
        header.set_length(length as u32);
        header.set_message_type(request.kind);
        header.set_flags(request.flags | flags | NLM_F_REQUEST);
        header.set_sequence_number(self.sequence);
        header.set_port_number(0);
        out[start + HEADER..start + length].copy_from_slice(&request.body);
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Failure> {
        let kernel = SocketAddr::new(0, 0);
        let sent = self.inner.send_to(bytes, &kernel, 0).map_err(Failure::io)?;
        if sent != bytes.len() {
            return Err(Failure::io(io::ErrorKind::WriteZero.into()));
        }
        Ok(())
    }

    /// Reads one datagram and gives each message in it to `each`: sequence number, flags, answer.
    fn receive(&mut self, mut each: impl FnMut(u32, u16, Answer<'_>)) -> Result<(), Failure> {
        self.buffer.clear();
        loop {
            match self.inner.recv(&mut self.buffer, 0) {
                Ok(_) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Failure::io(e)),
            }
        }
        let mut rest = &self.buffer[..];
        while rest.len() >= HEADER {
            let malformed = |_| Failure::io(io::ErrorKind::InvalidData.into());
            let message = NetlinkBuffer::new_checked(rest).map_err(malformed)?;
            let (kind, flags, body) = (message.message_type(), message.flags(), message.payload());
            let answer = match kind {
                NLMSG_ERROR => Some(error_answer(flags, body)),
                // The end of a dump carries an error number too.
                NLMSG_DONE => Some(match body.first_chunk().map(|b| i32::from_ne_bytes(*b)) {
                    Some(errno) if errno < 0 => Answer::Ack(-errno, String::new()),
                    _ => Answer::Done,
                }),
                NLMSG_NOOP => None,
                kind => Some(Answer::Data(kind, body)),
            };
            if let Some(answer) = answer {
                each(message.sequence_number(), flags, answer);
            }
            let length = (message.length() as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
        Ok(())
    }
}

fn refusal(index: Option<usize>, errno: i32, text: String) -> Failure {
    Failure { index, source: io::Error::from_raw_os_error(errno), text }
}

/// `struct nlmsgerr`: the negative error number, the refused message's header, and attributes.
fn error_answer(flags: u16, body: &[u8]) -> Answer<'static> {
    let errno = body.first_chunk().map_or(libc::EIO, |b| -i32::from_ne_bytes(*b));
    let mut text = String::new();
    let after = 4 + HEADER;
    if let (true, Some(attributes)) = (flags & NLM_F_CAPPED != 0, body.get(after..)) {
        for attribute in NlasIterator::new(attributes).flatten() {
            if attribute.kind() == NLMSGERR_ATTR_MSG {
                let words = String::from_utf8_lossy(attribute.value());
                words.trim_end_matches('\0').clone_into(&mut text);
            }
        }
    }
    Answer::Ack(errno, text)
}
