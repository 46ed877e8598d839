//! What each format reads, and what it says about lines that are wrong.

use std::io::Write;
use std::path::Path;

use super::*;

mod json;
mod parquet;
mod sources;

/// Reads `text` as a file of this name: rows as short text, errors as the user sees them.
fn read(name: &str, text: impl AsRef<[u8]>, chosen: Chosen) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    File::create(&path).unwrap().write_all(text.as_ref()).unwrap();
    read_path(&path, None, chosen)
}

/// Reads a file; errors name it without its folder.
fn read_path(path: &Path, format: Option<Format>, chosen: Chosen) -> Vec<String> {
    let folder = path.parent().unwrap();
    let show = |error: Error| error.to_string().replace(&format!("{}/", folder.display()), "");
    let list = match PromptList::open(path, format, chosen) {
        Ok(list) => list,
        Err(error) => return vec![show(error)],
    };
    let mut rows = Vec::new();
    let read = list.read(folder, &mut |row| {
        rows.push(row.map_or_else(show, |row| short(&row)));
        ControlFlow::Continue(())
    });
    rows.extend(read.err().map(show));
    rows
}

fn short(row: &PromptRow) -> String {
    let mut text = format!("{}| {}", row.line, row.prompt);
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!("; {name}={value}"));
        }
    };
    add("negative", row.negative_prompt.clone());
    add("seed", row.seed.map(|value| value.to_string()));
    add("width", row.width.map(|value| value.to_string()));
    add("height", row.height.map(|value| value.to_string()));
    add("steps", row.steps.map(|value| value.to_string()));
    add("guidance", row.guidance.map(|value| value.to_string()));
    add("id", row.id.clone());
    add("extra", Some(row.extra.clone()).filter(|extra| !extra.is_empty()));
    text
}

fn plain(name: &str, text: impl AsRef<[u8]>) -> Vec<String> {
    read(name, text, Chosen::default())
}

#[test]
fn text_skips_blank_lines_and_keeps_line_numbers() {
    assert_eq!(plain("a.txt", "\u{feff}red dots\r\n\r\n  \nblue dots"), ["1| red dots", "4| blue dots"]);
}

#[test]
fn a_line_that_is_not_utf8_is_named_and_the_next_is_read() {
    let rows = plain("a.txt", b"ok\nab\xff\nfine\n");
    assert_eq!(rows, ["1| ok", "a.txt:2: not UTF-8 at byte 3", "3| fine"]);
}

#[test]
fn a_line_beyond_the_limit_is_named_and_the_next_is_read() {
    let text = format!("{}\nfine\n", "x".repeat(3 << 20));
    assert_eq!(plain("a.txt", text), ["a.txt:1: longer than 1024 KiB", "2| fine"]);
}

#[test]
fn jsonl_reads_objects_strings_overrides_and_passes_the_rest_through_in_order() {
    let rows = plain(
        "a.jsonl",
        concat!(
            "{\"zebra\":1,\"text\":\"t\",\"apple\":null,\"image_id\":7}\n",
            "\"only text\"\n\n",
            "{\"prompt\":\"p\",\"text\":\"t\",\"negative_prompt\":\"n\",\"seed\":5,\"width\":512.0,",
            "\"height\":256,\"steps\":4,\"cfg\":1.5,\"id\":\"x\"}\n",
        ),
    );
    assert_eq!(
        rows,
        [
            r#"1| t; id=7; extra={"zebra":1,"apple":null}"#,
            "2| only text",
            r#"4| p; negative=n; seed=5; width=512; height=256; steps=4; guidance=1.5; id=x; extra={"text":"t"}"#,
        ]
    );
}

#[test]
fn jsonl_says_what_is_wrong_with_a_line() {
    let rows = plain(
        "a.jsonl",
        concat!(
            "{\"prompt\":\"a\",}\n",
            "[1]\n",
            "{\"image\":\"a\",\"label\":2}\n",
            "{\"prompt\":3}\n",
            "{\"prompt\":\"  \"}\n",
            "{\"prompt\":\"a\",\"width\":0}\n",
            "{\"prompt\":\"a\",\"height\":16385}\n",
            "{\"prompt\":\"a\",\"seed\":-1}\n",
            "{\"prompt\":\"a\",\"seed\":\"7\"}\n",
            "{\"prompt\":\"a\",\"guidance\":1e9}\n",
            "{\"prompt\":\"a\\u0000b\"}\n",
        ),
    );
    assert_eq!(
        rows,
        [
            "a.jsonl:1: bad JSON at column 15: trailing comma",
            "a.jsonl:2: expected an object or a string, found an array",
            "a.jsonl:3: no column `prompt`, `text` or `caption`; found `image`, `label`",
            "a.jsonl:4: `prompt` is a number, expected a string",
            "a.jsonl:5: empty prompt",
            "a.jsonl:6: `width` is 0, expected a whole number from 1 to 16384",
            "a.jsonl:7: `height` is 16385, expected a whole number from 1 to 16384",
            "a.jsonl:8: `seed` is -1, expected a whole number from 0 to 9223372036854775807",
            "a.jsonl:9: `seed` is a string, expected a whole number",
            "a.jsonl:10: `guidance` is 1000000000.0, expected a number from 0 to 100",
            "a.jsonl:11: prompt holds a NUL character",
        ]
    );
}

#[test]
fn csv_follows_rfc_4180_and_counts_lines_through_crlf_and_quoted_line_ends() {
    let text = "id,Prompt,seed,note\r\n1,\"a \"\"big\"\" dog, \r\nsitting\",,x\r\n\r\n2,cat,9.0,\"\"\r\n";
    assert_eq!(
        plain("a.csv", text),
        [
            r#"2| a "big" dog, "#.to_owned() + "\nsitting; id=1; extra={\"note\":\"x\"}",
            r#"5| cat; seed=9; id=2; extra={"note":""}"#.to_owned(),
        ]
    );
}

#[test]
fn csv_says_what_is_wrong_with_a_line_and_goes_on() {
    let text = "prompt,width\na\nb,x\n\"c\"d,1\n,5\nlast,64\n\"open,1\n";
    assert_eq!(
        plain("a.csv", text),
        [
            "a.csv:2: 1 fields, but the header has 2",
            "a.csv:3: `width` is `x`, expected a whole number from 1 to 16384",
            "a.csv:4: field 1: text after its closing quote",
            "a.csv:5: empty prompt",
            "6| last; width=64",
            "a.csv:7: a quoted field is not closed",
        ]
    );
}

#[test]
fn a_wrong_header_is_one_error() {
    assert_eq!(plain("a.csv", ""), ["a.csv: empty, not even a header"]);
    assert_eq!(
        plain("a.csv", "\n\nurl,label\nx,y\n"),
        ["a.csv:3: no column `prompt`, `text` or `caption`; found `url`, `label`"]
    );
    assert_eq!(plain("a.csv", "prompt,x,x\na,b,c\n"), ["a.csv:1: two columns are called `x`"]);
    let chosen = Chosen { seed: Some("luck".to_owned()), ..Chosen::default() };
    assert_eq!(read("a.csv", "prompt\na\n", chosen), ["a.csv:1: no column `luck`; found `prompt`"]);
}

#[test]
fn chosen_columns_win_over_known_names() {
    let chosen = Chosen {
        prompt: Some("description".to_owned()),
        id: Some("KEY".to_owned()),
        seed: Some("luck".to_owned()),
        dropped: vec![],
    };
    let rows = read("a.csv", ",prompt,Description,key,luck\n0,p,d,k,3\n", chosen);
    assert_eq!(rows, [r#"2| d; seed=3; id=k; extra={"column_1":"0","prompt":"p"}"#]);
}

#[test]
fn a_stray_quote_names_all_the_lines_that_it_swallows() {
    let swallowed = "fine\n".repeat(4);
    assert_eq!(
        plain("a.csv", format!("prompt\na\n\"stray\n{swallowed}")),
        ["2| a", "a.csv:3-7: a quoted field is not closed"]
    );
    // The limit ends it, and what follows is read again.
    let long = format!("{}\n", "x".repeat(1 << 10)).repeat(1 << 10);
    let rows = plain("a.csv", format!("prompt\n\"stray\n{long}last\n"));
    assert_eq!(rows[0], "a.csv:2-1025: a quoted field is not closed within 1024 KiB");
    assert_eq!(rows.last().unwrap(), "1027| last");
}

#[test]
fn every_limit_of_the_coordinator_is_told_with_its_line() {
    let row = |name: &str, value: &str| format!("{{\"prompt\":\"p\",\"{name}\":\"{value}\"}}\n");
    let long = |bytes: usize| "x".repeat(bytes);
    let good = [
        row("id", &long(4096)),
        row("note", &long((64 << 10) - 11)),
        row("negative_prompt", &long(16 << 10)),
    ];
    assert!(plain("a.jsonl", good.concat()).iter().all(|row| row.contains("| p")));
    let bad = [
        row("id", &long(4097)),
        row("id", "\\u0000"),
        row("note", &long((64 << 10) - 10)),
        row("negative_prompt", &long((16 << 10) + 1)),
    ];
    assert_eq!(
        plain("a.jsonl", bad.concat()),
        [
            "a.jsonl:1: id longer than 4 KiB",
            "a.jsonl:2: id holds a NUL character",
            "a.jsonl:3: pass-through columns longer than 64 KiB",
            "a.jsonl:4: negative prompt longer than 16 KiB",
        ]
    );
    let columns: String = (0..501).map(|number| row(&format!("column {number}"), "x")).collect();
    let rows = plain("a.jsonl", columns + &row("column 7", "y"));
    assert_eq!(rows[500], "a.jsonl:501: more than 500 different columns to pass through in one list");
    assert!(rows[501].starts_with("502| p"), "{}", rows[501]);
    let header: String = (0..501).map(|number| format!(",c{number}")).collect();
    assert_eq!(
        plain("a.csv", format!("prompt{header}\n")),
        ["a.csv:1: 501 columns to pass through; the limit is 500"]
    );
}

#[test]
fn tsv_takes_quotes_literally_unless_the_whole_field_is_quoted() {
    let text = "prompt\tnote\n\"G I G\" painted\t\"a \"\"b\"\"\tc\"\nsay \"hi\"\t\"open\n";
    assert_eq!(
        plain("a.tsv", text),
        [r#"2| "G I G" painted; extra={"note":"a \"b\"\tc"}"#, r#"3| say "hi"; extra={"note":"\"open"}"#,]
    );
}

#[test]
fn parti_prompts_are_read_row_by_row_as_they_are() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/PartiPrompts.tsv"));
    let mut rows = Vec::new();
    let list = PromptList::open(path, None, Chosen::default()).unwrap();
    let read = list.read(Path::new("."), &mut |row| {
        rows.push(row.unwrap());
        ControlFlow::Continue(())
    });
    read.unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    let prompts: Vec<&str> = text.lines().skip(1).map(|line| line.split('\t').next().unwrap()).collect();
    assert_eq!(rows.len(), 1632);
    assert_eq!(rows.iter().map(|row| row.prompt.as_str()).collect::<Vec<_>>(), prompts);
    assert_eq!(
        rows[0].extra,
        r#"{"Category":"Abstract","Challenge":"Basic","Note":"Biology-inspired concepts with multiple meanings"}"#
    );
}

#[test]
fn dropped_columns_are_neither_used_nor_passed_through() {
    let dropped = |names: &[&str]| Chosen {
        dropped: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Chosen::default()
    };
    assert_eq!(
        read("a.csv", "prompt,seed,note,caption\na,1,n,c\n", dropped(&["SEED", "prompt"])),
        [r#"2| c; extra={"note":"n"}"#]
    );
    assert_eq!(
        read("a.csv", "prompt\na\n", dropped(&["note"])),
        ["a.csv:1: no column `note`; found `prompt`"]
    );
    assert_eq!(
        read("a.jsonl", "{\"prompt\":\"a\",\"note\":1}\n{\"prompt\":\"b\"}\n", dropped(&["note"])),
        ["1| a", "2| b"]
    );
}

#[test]
fn jsonl_keeps_values_as_they_are_and_takes_the_last_of_two_equal_names() {
    let text = concat!(
        "{\"prompt\":\"a\",\"t\":\"q\\\"\\u00e9\\n\",\"n\":[1,{\"k\":null}],\"x\":1e2,\"y\":-3,\"b\":true}\n",
        "{\"note\":1,\"prompt\":\"b\",\"note\":{\"z\":2}}\n",
        "{\"note\":1,\"prompt\":\"c\"}\n",
    );
    assert_eq!(
        plain("a.jsonl", text),
        [
            r#"1| a; extra={"t":"q\"é\n","n":[1,{"k":null}],"x":100.0,"y":-3,"b":true}"#,
            r#"2| b; extra={"note":{"z":2}}"#,
            r#"3| c; extra={"note":1}"#,
        ]
    );
}

#[test]
fn an_unknown_extension_is_sniffed() {
    assert_eq!(plain("list", "\n {\"prompt\":\"a\"}\n"), ["2| a"]);
    assert_eq!(plain("list.prompts", "red, green\n"), ["1| red, green"]);
}

#[test]
fn a_missing_file_is_an_error_that_names_it() {
    let error = PromptList::open(Path::new("/nowhere/a.txt"), None, Chosen::default());
    assert_eq!(error.err().unwrap().to_string(), "read prompt list /nowhere/a.txt");
}
