//! What clients say and backends hear: texts that carry a number, and the count and digest by which a lost, repeated or
//! swapped message is found out. Pure, and tested by tests/bench.rs.

use std::fmt::{self, Write as _};

/// What begins every text that anybody says; a number follows.
pub(crate) const TICKET: &str = "bench-";

/// A line of prose, as JSON writes it.
const LINE: &str = "the quick brown fox jumps over the lazy dog while the band plays on and on\\n";

/// Where a message of a chat request begins, and its role.
const ROLE: &[u8] = br#""role":""#;

/// Adds prose of so many bytes, as it stands within a JSON string.
pub(crate) fn push_prose(text: &mut String, bytes: usize) {
    text.reserve(bytes);
    for _ in 0..bytes / LINE.len() {
        text.push_str(LINE);
    }
    // Not a part of a line: it could end within an escape.
    text.extend(std::iter::repeat_n('x', bytes % LINE.len()));
}

/// A JSON string's inside, as it reads.
pub(crate) fn decoded(text: &str) -> String {
    text.replace("\\n", "\n")
}

/// The messages that a backend heard in one request: how many, whose, and which.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) messages: usize,
    roles: u64,
    tickets: u64,
}

impl Heard {
    /// Of a chat request's body.
    pub(crate) fn of(body: &[u8]) -> Self {
        let mut heard = Self::default();
        for at in memchr::memmem::find_iter(body, ROLE) {
            heard.messages += 1;
            heard.roles = folded(heard.roles, body.get(at + ROLE.len()).copied().unwrap_or_default().into());
        }
        heard.tickets = tickets(body).fold(0, folded);
        heard
    }

    /// With one message more.
    fn and(mut self, role: Role, ticket: u64) -> Self {
        let initial = role.as_str().as_bytes().first().copied().unwrap_or_default();
        self.messages += 1;
        self.roles = folded(self.roles, initial.into());
        self.tickets = folded(self.tickets, ticket);
        self
    }
}

/// As the backend says it in its answers.
impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "heard {} messages {:016x}", self.messages, self.roles ^ self.tickets.rotate_left(32))
    }
}

fn folded(digest: u64, number: u64) -> u64 {
    (digest.rotate_left(5) ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// The numbers behind every [`TICKET`], in order.
fn tickets(body: &[u8]) -> impl Iterator<Item = u64> {
    memchr::memmem::find_iter(body, TICKET.as_bytes()).map(|at| {
        let digits = body.iter().skip(at + TICKET.len()).take_while(|byte| byte.is_ascii_digit());
        digits.fold(0, |number: u64, digit| number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')))
    })
}

/// The ticket of a request: that of its last message. 0, which no client uses, when there is none.
pub(crate) fn ticket(body: &[u8]) -> u64 {
    tickets(body).last().unwrap_or(0)
}

/// The beginning of an answer's text.
pub(crate) fn answer_head(ticket: u64, heard: Heard) -> String {
    format!("{TICKET}{ticket} {heard} ")
}

#[derive(Debug, Clone, Copy)]
enum Role {
    User,
    Assistant,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// The API that is spoken, and so what a request and a right answer are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    /// A chat request to the chat path, which nothing translates.
    Chat,
    /// A chat request to the path of Responses, so that the processor of that path sees it.
    Untranslated,
    /// A Responses request and a response.
    Responses,
}

/// The turns so far, as the next request tells them: a chat request repeats them all, a Responses request names the last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conversation {
    messages: String,
    parent: Option<String>,
    heard: Heard,
}

impl Conversation {
    /// The body of the next request, with a text of about so many bytes.
    pub(crate) fn request(&self, api: Api, stream: bool, ticket: u64, text_bytes: usize) -> String {
        let mut body = format!(r#"{{"model":"bench","stream":{stream},"temperature":0.7,"#);
        match api {
            Api::Chat | Api::Untranslated => {
                body.push_str(r#""messages":["#);
                body.push_str(&self.messages);
                push_message(&mut body, Role::User, &question(ticket, text_bytes));
                body.push_str("]}");
            }
            Api::Responses => {
                if let Some(parent) = &self.parent {
                    let _ = write!(body, r#""previous_response_id":"{parent}","#);
                }
                let _ = write!(body, r#""input":"{}"}}"#, question(ticket, text_bytes));
            }
        }
        body
    }

    /// What the backend must have heard with the next request.
    pub(crate) fn to_be_heard(&self, ticket: u64) -> Heard {
        self.heard.and(Role::User, ticket)
    }

    /// Continues with a turn: what was asked, the answer's text as it stands within JSON, and the response's id.
    pub(crate) fn answered(&mut self, api: Api, ticket: u64, text_bytes: usize, answer: &str, id: Option<String>) {
        self.heard = self.to_be_heard(ticket).and(Role::Assistant, ticket);
        self.parent = id;
        if api != Api::Responses {
            push_message(&mut self.messages, Role::User, &question(ticket, text_bytes));
            self.messages.push(',');
            push_message(&mut self.messages, Role::Assistant, answer);
            self.messages.push(',');
        }
    }
}

fn question(ticket: u64, bytes: usize) -> String {
    let mut text = format!("{TICKET}{ticket} ");
    push_prose(&mut text, bytes);
    text
}

fn push_message(body: &mut String, role: Role, text: &str) {
    let _ = write!(body, r#"{{"role":"{}","content":"{text}"}}"#, role.as_str());
}
