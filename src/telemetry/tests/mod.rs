mod logs;
mod metrics;
mod process;
mod traces;

use std::io::{self, Write};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::logs::{Form, assemble};
use super::{Format, Otlp, Request};

/// A sink that a test can read.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Page {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const PLAIN: Form = Form { format: Format::Pretty, colours: false };
const JSON: Form = Form { format: Format::Json, colours: false };

/// What the log says of `story`, complete.
fn log_of(form: Form, level: &str, story: impl FnOnce()) -> String {
    traced(form, level, None, story)
}

fn traced(form: Form, level: &str, otlp: Option<&Otlp>, story: impl FnOnce()) -> String {
    let page = Page::default();
    let (dispatch, guard) = assemble(form, level, otlp, page.clone()).unwrap();
    tracing::dispatcher::with_default(&dispatch, story);
    drop(guard);
    page.text()
}

/// A story that happens while a request is answered.
fn within<T>(request: Request, parent: opentelemetry::Context, story: impl FnOnce() -> T) -> T {
    let answer = request.begin(|| parent).answer(async { story() });
    match pin!(answer).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(told) => told,
        Poll::Pending => unreachable!("nothing is waited for"),
    }
}

fn request(id: &str, method: &str, path_class: &'static str) -> Request {
    Request::new(id.into(), method, path_class)
}
