//! Which log probabilities a response has a place for.

use crate::openai::chat_answer::TokenLogprob;

/// Of a whole answer's log probabilities those of its text: the tokens of reasoning come before it, and that which ended
/// the answer behind. All of them if the text is not whole tokens.
///
/// In a stream reasoning has chunks of its own, and a backend that looks for stop sequences tells tokens before their text.
pub(super) fn of_text(text: &str, mut logprobs: Vec<TokenLogprob>) -> Vec<TokenLogprob> {
    if text.is_empty() || logprobs.is_empty() {
        return logprobs;
    }
    let (mut all, mut begins) = (Vec::new(), Vec::with_capacity(logprobs.len()));
    for logprob in &logprobs {
        begins.push(all.len());
        // A token that is a part of a character shows another one in its place; its bytes are true.
        all.extend_from_slice(if logprob.bytes.is_empty() { logprob.token.as_bytes() } else { &logprob.bytes });
    }
    // The text is whole tokens: it may occur within one as well, as "s" does in "</s>".
    let tokens = memchr::memmem::rfind_iter(&all, text).find_map(|at| {
        let first = begins.binary_search(&at).ok()?;
        let end = at + text.len();
        if end == all.len() {
            Some(first..begins.len())
        } else {
            begins.binary_search(&end).ok().map(|last| first..last)
        }
    });
    match tokens {
        Some(tokens) => {
            logprobs.truncate(tokens.end);
            logprobs.split_off(tokens.start)
        }
        None => logprobs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens_of_text<'a>(text: &str, tokens: &[&'a str]) -> Vec<&'a str> {
        let logprobs =
            tokens.iter().map(|token| TokenLogprob { token: (*token).to_owned(), ..TokenLogprob::default() });
        let kept = of_text(text, logprobs.collect());
        kept.iter().map(|kept| *tokens.iter().find(|token| **token == kept.token).unwrap()).collect()
    }

    #[test]
    fn the_log_probabilities_of_a_text_are_those_of_its_tokens() {
        for (text, tokens, wanted) in [
            ("Hello", &["He", "llo"][..], &["He", "llo"][..]),
            ("Hello", &["He", "llo", "<eos>"], &["He", "llo"]),
            ("Hello", &["r1", "</think>", "He", "llo", "<eos>"], &["He", "llo"]),
            ("s", &["s", "</think>", "s", "</s>"], &["s"]),
            // White space that a parser took from the text; a stop sequence that ends within a token.
            ("Hello", &["think", "\n\nHello"], &["think", "\n\nHello"]),
            ("Hel", &["He", "llo"], &["He", "llo"]),
            ("", &["<eos>"], &["<eos>"]),
        ] {
            assert_eq!(tokens_of_text(text, tokens), wanted, "{text}");
        }
    }
}
