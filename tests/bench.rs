//! The parts of the benchmark that could lie: whether a lost turn is found out, and what is made of numbers.

#[expect(dead_code, reason = "the stack uses the rest")]
#[path = "../benches/stack/conversation.rs"]
mod conversation;
#[expect(dead_code, reason = "the report uses the rest")]
#[path = "../benches/stack/figures.rs"]
mod figures;

use conversation::{Api, Conversation, Heard};
use figures::{Rounds, median, percentile, rounded, slope};

type Messages = Vec<serde_json::Value>;

/// A conversation of so many turns, with the tickets 1, 2, …
fn conversation(api: Api, turns: u64) -> Conversation {
    let mut conversation = Conversation::default();
    for ticket in 1..=turns {
        let answer = conversation::answer_head(ticket, conversation.to_be_heard(ticket));
        conversation.answered(api, ticket, 100, &answer, Some(format!("resp_{ticket}")));
    }
    conversation
}

#[test]
fn the_backend_hears_what_the_client_says_it_must() {
    for turns in [0, 1, 2, 49] {
        let conversation = conversation(Api::Chat, turns);
        let body = conversation.request(Api::Chat, false, turns + 1, 100);
        let heard = Heard::of(body.as_bytes());
        assert_eq!(heard, conversation.to_be_heard(turns + 1), "{body}");
        assert_eq!(heard.messages, 2 * usize::try_from(turns).unwrap() + 1);
        assert_eq!(conversation::ticket(body.as_bytes()), turns + 1);
        serde_json::from_str::<serde_json::Value>(&body).unwrap();
    }
}

#[test]
fn a_lost_a_repeated_a_swapped_and_a_foreign_turn_are_found_out() {
    let full = conversation(Api::Chat, 3);
    let body = full.request(Api::Chat, false, 4, 100);
    let right = full.to_be_heard(4).to_string();
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    let said_of = |change: &dyn Fn(&mut Messages)| {
        let mut body = body.clone();
        change(body["messages"].as_array_mut().unwrap());
        // Compact and with `role` before `content` in the source, as on the wire.
        let messages: Vec<String> = body["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|message| format!(r#"{{"role":{},"content":{}}}"#, message["role"], message["content"]))
            .collect();
        Heard::of(format!(r#"{{"messages":[{}]}}"#, messages.join(",")).as_bytes()).to_string()
    };
    assert_eq!(said_of(&|_| {}), right);
    let wrong: [&dyn Fn(&mut Messages); 6] = [
        &|messages| drop(messages.drain(2..4)),
        &|messages| drop(messages.drain(..6)),
        &|messages| messages.insert(2, messages[1].clone()),
        &|messages| messages.swap(1, 3),
        &|messages| messages.swap(0, 1),
        &|messages| messages[2]["content"] = "bench-77 hello".into(),
    ];
    for (index, change) in wrong.into_iter().enumerate() {
        assert_ne!(said_of(change), right, "change {index}");
    }
}

#[test]
fn a_responses_request_names_its_parent_and_repeats_nothing() {
    let body = conversation(Api::Responses, 3).request(Api::Responses, true, 4, 10);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["previous_response_id"], "resp_3");
    assert_eq!(body["input"], "bench-4 xxxxxxxxxx");
    assert_eq!(body["stream"], true);
}

#[test]
fn prose_has_its_length_and_reads_as_json_says() {
    for bytes in [0, 1, 75, 76, 77, 2048] {
        let mut text = String::new();
        conversation::push_prose(&mut text, bytes);
        assert_eq!(text.len(), bytes);
        let read: String = serde_json::from_str(&format!("\"{text}\"")).unwrap();
        assert_eq!(read, conversation::decoded(&text));
    }
}

#[test]
fn the_slope_is_that_of_the_line_by_least_squares() {
    let near = |found: Option<f64>, right: f64| assert!((found.unwrap() - right).abs() < 1e-9, "{found:?} not {right}");
    near(slope(&[5.0, 7.0, 9.0, 11.0]), 2.0);
    near(slope(&[3.0, 3.0, 3.0]), 0.0);
    near(slope(&[4.0, 1.0]), -3.0);
    // By hand: the sums over (x - 2.5)(y - 3) and (x - 2.5)² are 4 and 5.
    near(slope(&[1.0, 4.0, 4.0, 3.0]), 0.6);
    assert_eq!(slope(&[1.0]), None);
    assert_eq!(slope(&[]), None);
}

#[test]
fn medians_and_percentiles_are_those_of_the_sorted_values() {
    assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    assert_eq!(median(&[]), None);
    let sorted: Vec<u64> = (1..=100).collect();
    assert_eq!((percentile(&sorted, 50), percentile(&sorted, 99)), (Some(51), Some(100)));
    assert_eq!((percentile(&[7], 99), percentile(&[], 50)), (Some(7), None));
}

#[test]
fn ratios_are_taken_round_by_round() {
    let (mut row, mut floor) = (Rounds::default(), Rounds::default());
    for (one, other) in [(2.0, 1.0), (40.0, 10.0), (3.0, 1.0)] {
        row.push(one);
        floor.push(other);
    }
    assert_eq!(row.each_with(&floor, |row, floor| row / floor).median(), Some(3.0));
}

#[test]
fn the_medians_of_parts_are_of_rounds_in_a_row() {
    let mut rounds = Rounds::default();
    [1.0, 2.0, 9.0, 4.0, 5.0, 6.0].into_iter().for_each(|value| rounds.push(value));
    let medians = |values: &[f64]| {
        let mut rounds = Rounds::default();
        values.iter().for_each(|value| rounds.push(*value));
        rounds
    };
    assert_eq!(rounds.medians_of(2), medians(&[2.0, 5.0]));
    assert_eq!(rounds.medians_of(3), medians(&[1.5, 6.5, 5.5]));
    assert_eq!((rounds.medians_of(7), rounds.medians_of(0)), (rounds.clone(), medians(&[4.5])));
}

#[test]
fn the_interval_of_a_median_leaves_out_what_coins_rarely_do() {
    let of = |count: u32| {
        let mut rounds = Rounds::default();
        (1..=count).rev().for_each(|value| rounds.push(f64::from(value)));
        rounds.interval()
    };
    // Tables of the sign test: of six coins none or all fall on one side in 3.1%, of nine at most one in 3.9%, of 20 at
    // most five in 4.1%, of 40 at most 13 in 3.8%.
    assert_eq!((of(0), of(5)), (None, None));
    for (count, interval) in [(6, [1.0, 6.0]), (9, [2.0, 8.0]), (20, [6.0, 15.0]), (40, [14.0, 27.0])] {
        assert_eq!(of(count), Some(interval), "{count}");
    }
}

#[test]
fn figures_are_written_to_five_digits() {
    for (value, written) in
        [(0.123_456_78, 0.12346), (123_456.7, 123_460.0), (1.5, 1.5), (-0.000_123_456, -0.000_123_46)]
    {
        assert!((rounded(value) - written).abs() < 1e-12, "{} for {value}", rounded(value));
    }
}
