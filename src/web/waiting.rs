//! The closed door: while the database is not there yet, every request learns so at once.

use actix_web::{HttpRequest, HttpResponse};

use super::problem::Problem;
use crate::error::Error;

/// Answers everything with 503 and the same problem that a database lost later would give.
pub async fn closed(_request: HttpRequest) -> HttpResponse {
    let problem = Problem::of(&Error::DatabaseDown(String::new()));
    let mut response = HttpResponse::ServiceUnavailable();
    for header in problem.headers() {
        response.insert_header(header);
    }
    response
        .insert_header(("cache-control", "no-store"))
        .content_type("application/problem+json")
        .body(problem.json("starting"))
}
