//! JSON documents: arrays of rows, COCO's captions, and what is neither.

use super::*;

#[test]
fn an_array_is_read_like_lines_and_bad_rows_are_named() {
    let text = r#" [ {"prompt":"a","id":1,"note":"x"}, "b",
        7, {"prompt":" "}, [ {"prompt":"no"} ], {"text":"c","seed":3} ] "#;
    assert_eq!(
        plain("a.json", text),
        [
            r#"1| a; id=1; extra={"note":"x"}"#,
            "2| b",
            "a.json: row 3: expected an object or a string, found a number",
            "a.json: row 4: empty prompt",
            "a.json: row 5: expected an object or a string, found an array",
            "6| c; seed=3",
        ]
    );
    assert_eq!(plain("a.json", "[]"), [""; 0]);
}

#[test]
fn captions_of_coco_get_the_file_names_of_images_that_come_before_them() {
    let info = r#""info":{"year":2017,"nested":[{"a":[]}]},"licenses":[{"id":1}]"#;
    let images = r#""images":[{"id":7,"file_name":"7.jpg","width":640,"height":480},{"id":"x","file_name":"x.jpg"},{}]"#;
    let captions = r#""annotations":[{"image_id":7,"id":48,"caption":"A \"big\" dog"},
        {"image_id":"x","id":49,"caption":"cat"},{"image_id":8,"id":50,"caption":"none"},{"image_id":7,"id":51}]"#;
    assert_eq!(
        plain("a.json", format!("{{{info},{images},{captions}}}")),
        [
            r#"1| A "big" dog; id=48; extra={"image_id":7,"file_name":"7.jpg"}"#,
            r#"2| cat; id=49; extra={"image_id":"x","file_name":"x.jpg"}"#,
            r#"3| none; id=50; extra={"image_id":8}"#,
            "a.json: row 4: no column `prompt`, `text` or `caption`; found `image_id`, `id`, `file_name`",
        ]
    );
    let late = plain("a.json", format!("{{{captions},{images},{info}}}"));
    assert_eq!(late[0], r#"1| A "big" dog; id=48; extra={"image_id":7}"#);
}

#[test]
fn chosen_columns_hold_for_documents_too() {
    let chosen = Chosen { id: Some("image_id".to_owned()), ..Chosen::default() };
    let text = r#"{"annotations":[{"image_id":7,"id":48,"caption":"dog"}]}"#;
    assert_eq!(read("a.json", text, chosen), [r#"1| dog; id=7; extra={"id":48}"#]);
}

#[test]
fn other_documents_are_refused_with_what_they_hold() {
    let refused = |text: &str| plain("a.json", text).pop().unwrap();
    let wanted = "a .json list is an array of rows, or an object of COCO with `annotations`";
    let hint = "for one object a line say --list-format jsonl";
    assert_eq!(
        refused(r#"{"data":[{"prompt":"a"}],"version":1}"#),
        format!("a.json: {wanted}; found `data`, `version`; {hint}")
    );
    assert_eq!(refused("{}"), format!("a.json: {wanted}; found an empty object; {hint}"));
    assert_eq!(refused("\"a\""), format!("a.json: {wanted}; found a string; {hint}"));
    assert_eq!(refused(r#"["a", "b""#), "a.json: bad JSON: EOF while parsing a list at line 1 column 9");
    assert_eq!(refused(r#"["a"] b"#), "a.json: bad JSON: trailing characters at line 1 column 7");
    assert_eq!(refused(r#"["a",]"#), "a.json: bad JSON: trailing comma at line 1 column 6");
    assert!(refused(r#"{"annotations":7}"#).starts_with("a.json: bad JSON: invalid type: integer `7`"));
}

#[test]
fn a_row_without_end_is_not_held() {
    let endless = format!("[\"a\",\"{}\"]", "x".repeat(3 << 20));
    assert_eq!(plain("a.json", &endless), ["1| a", "read prompt list a.json"]);
    // What is not kept may be of any length, and rows before and after it are read.
    let skipped = format!("{{\"info\":\"{}\",\"annotations\":[\"a\"]}}", "x".repeat(3 << 20));
    assert_eq!(plain("a.json", skipped), ["1| a"]);
    let many = format!("[{}\"z\"]", format!("\"{}\",", "y".repeat(9000)).repeat(400));
    assert_eq!(plain("a.json", many).len(), 401);
}

#[test]
fn whoever_wants_no_more_rows_gets_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.json");
    std::fs::write(&path, r#"["a","b", nonsense"#).unwrap();
    let mut rows = 0;
    let read = PromptList::open(&path, None, Chosen::default()).unwrap().read(folder.path(), &mut |_| {
        rows += 1;
        if rows == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(read.is_ok() && rows == 2);
}
