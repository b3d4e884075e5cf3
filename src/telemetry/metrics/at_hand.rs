//! The series of ordinary requests, kept at hand: to find them by their labels cost each request more than to judge it.

use std::borrow::Cow;
use std::sync::OnceLock;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use super::{Inner, status_class};

/// By route class and method.
#[derive(Debug, Default)]
pub(super) struct AtHand([[OnceLock<Box<HttpSeries>>; METHODS.len()]; ROUTES.len()]);

/// The route classes that nearly every request is of.
const ROUTES: [&str; 3] = ["app", "auth", "dev_idp"];
const METHODS: [&str; 4] = ["GET", "POST", "HEAD", "OPTIONS"];
/// Statuses below and from this one on are spelled as seldom as others.
const STATUSES: std::ops::Range<u16> = 200..512;

#[derive(Debug)]
struct HttpSeries {
    seconds: Histogram,
    requests: Vec<OnceLock<Counter>>,
}

impl AtHand {
    pub(super) fn count(
        &self,
        all: &Inner,
        (route, method, status): (&'static str, &'static str, u16),
        seconds: f64,
    ) {
        let labels = || [("route", Cow::Borrowed(route)), ("method", Cow::Borrowed(method))];
        let with_status = || {
            let [route, method] = labels();
            [route, method, ("status", status_class(status))]
        };
        // `max` turns the not-a-number of a broken clock into 0: one such value would spoil the sum for ever.
        let seconds = seconds.max(0.0);
        let row = ROUTES.iter().position(|one| *one == route);
        let column = METHODS.iter().position(|one| *one == method);
        let slot = row.zip(column).and_then(|(row, column)| self.0.get(row)?.get(column));
        let Some(slot) = slot else {
            all.http_requests.count(with_status(), 1);
            return all.http_seconds.observe(labels(), seconds);
        };
        let series = slot.get_or_init(|| {
            let requests = STATUSES.map(|_| OnceLock::new()).collect();
            Box::new(HttpSeries { seconds: all.http_seconds.with(labels(), Histogram::clone), requests })
        });
        series.seconds.observe(seconds);
        let at = status.checked_sub(STATUSES.start).and_then(|at| series.requests.get(usize::from(at)));
        match at {
            Some(counter) => {
                counter.get_or_init(|| all.http_requests.with(with_status(), Counter::clone)).inc();
            }
            None => all.http_requests.count(with_status(), 1),
        }
    }
}
