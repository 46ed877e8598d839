//! The questions of docs/sql.md.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Bench;
use super::bench::*;
use crate::domain::blame::ErrorClass;
use crate::domain::spec::{JobSpec, Row};
use crate::store::records::{Cell, Change};

const GUIDE: &str = include_str!("../../../../docs/sql.md");
/// What they answer on the farm of [`seed`]; ids are left out, and numbers are rounded.
const ANSWERS: &str = include_str!("guide.txt");

pub async fn every_question_of_the_guide_has_its_answer(mut bench: Bench) {
    seed(&mut bench).await;
    let mut answers = String::new();
    let (_, questions) = GUIDE.split_once("## Twenty questions").unwrap();
    let mut asked = 0;
    for block in questions.split("```sql\n").skip(1) {
        let sql = block.split("```").next().unwrap();
        let first = sql.lines().next().unwrap();
        answers.push_str(&format!("? {first}\n"));
        for row in bench.sql(sql).await {
            let cells: Vec<_> = row.iter().map(text).collect();
            answers.push_str(&format!("{}\n", cells.join(" | ")));
        }
        asked += 1;
    }
    assert_eq!(asked, 20);
    // Run with this variable to see the answers: they are then to be read before they are believed.
    if let Ok(file) = std::env::var("SANAFARM_WRITE_GUIDE") {
        std::fs::write(file, &answers).unwrap();
    }
    assert_eq!(answers, ANSWERS);
}

/// A job with two categories that ends with a failure, and one that waits.
async fn seed(bench: &mut Bench) {
    let rows = (1..=6).map(|line| {
        let category = if line % 3 == 0 { "Arts" } else { "Animals" };
        Row { extra: format!(r#"{{"Category":"{category}"}}"#), ..row(line) }
    });
    let first = bench.submit_rows(spec("first"), rows, 3).await;
    bench.pass(Duration::from_secs(5));
    let (one, two) = (bench.session("one").await, bench.session("two").await);
    let lease = bench.lease(&one).await.unwrap();
    bench.pass(Duration::from_secs(6));
    let [a, b, c] = lease.images.as_slice() else { panic!("{} images", lease.images.len()) };
    bench.report(&one, &lease.lease, &[done(a), error(b, ErrorClass::Internal), done(c)]).await;
    bench.release(&one, &lease.lease, &finished()).await;
    bench.pass(Duration::from_secs(2));
    bench.render_all(&two).await;
    bench.store.close_session(&one, "done", bench.now).await.unwrap();
    bench.store.finish_job(&first, bench.now).await.unwrap();
    let waiting = JobSpec { owner: "bob".to_owned(), ..spec("second") };
    let rows = [row(1), Row { width: Some(128), ..row(1) }, row(7)];
    let second = bench.submit_rows(waiting, rows.into_iter(), 1).await;
    let lease = bench.lease(&two).await.unwrap();
    bench.report(&two, &lease.lease, &[error(&lease.images[0], ErrorClass::Prompt)]).await;
    bench.change(&second, Change::Priority(2)).await;
    bench.change(&second, Change::Pause).await;
}

fn text(cell: &Cell) -> String {
    match cell {
        Cell::Null => "-".to_owned(),
        Cell::Integer(number) => number.to_string(),
        Cell::Real(number) => ((number * 1e4).round() / 1e4).to_string(),
        Cell::Blob(bytes) => format!("{} bytes", bytes.len()),
        Cell::Text(text) => match (text.parse::<f64>(), uuid::Uuid::try_parse(text)) {
            // Numbers of any precision come as text from some databases.
            (Ok(number), _) if text.len() < 20 => ((number * 1e4).round() / 1e4).to_string(),
            (_, Ok(_)) => "(id)".to_owned(),
            // Databases that read JSON write it in another order.
            _ => match serde_json::from_str::<BTreeMap<String, serde_json::Value>>(text) {
                Ok(object) => serde_json::to_string(&object).unwrap(),
                Err(_) => text.clone(),
            },
        },
    }
}
