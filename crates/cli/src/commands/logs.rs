//! `costrel logs`: what functions have logged under `costrel serve`.

use std::{
    io::{self, IsTerminal as _, Write as _, stdout},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use costrel_logs::{LogReader, Query};
use jiff::{SignedDuration, Timestamp};

use super::serve::{LogFormat, Style, state};
use crate::{
    environment::Environment,
    failure::{Failure, Outcome},
};

/// How often is looked for new lines.
const LOOK: Duration = Duration::from_millis(200);

/// What `costrel logs` takes.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only what this function has logged
    function: Option<String>,
    /// Go on, with lines as they come
    #[arg(short, long)]
    follow: bool,
    /// Only lines from then on: a time such as 2026-01-31T12:00:00Z, or how long ago, such as 90s,
    /// 10m, 2h or 1d
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Timestamp>,
    /// Only the last so many lines
    #[arg(short = 'n', long, value_name = "N")]
    tail: Option<usize>,
    /// Only this invocation's lines
    #[arg(long, value_name = "ID")]
    request: Option<String>,
    /// One JSON object a line: at, function, version, instance, requestId, source, text (or base64)
    #[arg(long)]
    json: bool,
    /// Where the server keeps its state [env: COSTREL_STATE]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

pub(crate) async fn run(arguments: Arguments, environment: &Environment) -> Outcome {
    let logs = state(arguments.state.as_ref(), environment).join("logs");
    let reader = LogReader::open(&logs);
    let functions = reader.functions()?;
    if let Some(name) = &arguments.function
        && !arguments.follow
        && !functions.contains(name)
    {
        let failure = Failure::usage(format!("no function of that name has logged: {name}"));
        return Err(match &functions[..] {
            [] => failure.with_hint(format!("there are no logs in {}", logs.display())),
            names => failure.with_hint(format!("these have: {}", names.join(", "))),
        });
    }
    let format = if arguments.json { LogFormat::Json } else { LogFormat::Text };
    let style = Style::new(format, environment.get("NO_COLOR").is_some(), stdout().is_terminal());
    let mut follow = reader.follow(Query {
        function: arguments.function,
        since: arguments.since,
        until: None,
        request_id: arguments.request,
        tail: arguments.tail,
    });
    loop {
        let mut text = String::new();
        for line in follow.read_new()? {
            text += &style.line(&line);
        }
        let mut stdout = stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            // Whoever read has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
        drop(stdout);
        if !arguments.follow {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn parse_since(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let wrong = || format!("{text:?} is neither a time nor how long ago, such as 10m");
    let digits = text.len() - text.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: i64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let ago = SignedDuration::from_secs(number.checked_mul(seconds).ok_or_else(wrong)?);
    Timestamp::now().checked_sub(ago).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_how_long_ago() {
        let ago =
            |text| (Timestamp::now().as_second() - parse_since(text).unwrap().as_second()).abs();
        assert!((89..=91).contains(&ago("90s")));
        assert!((599..=601).contains(&ago("10m")));
        assert!((7_199..=7_201).contains(&ago("2h")));
        assert_eq!(parse_since("1970-01-01T00:00:01Z"), Ok(Timestamp::from_second(1).unwrap()));
        for text in ["", "10", "m", "10y", "99999999999999999999s", "9223372036854775807d", "now"] {
            assert!(parse_since(text).is_err(), "{text}");
        }
    }
}
