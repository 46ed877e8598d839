//! The stories that `history` tells.

use crate::farm::{coordinator, worker};
use crate::support::Sandbox;
use crate::support::wait_until;

/// Whoever submits and steers: nobody tells their name where there is no user.
fn user() -> String {
    std::env::var("USER").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

/// Ids, times and what is measured give way to their names.
fn masked(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let words = line.split(' ').scan("", |before, word| {
            let masked = mask(before, word);
            *before = word;
            Some(masked)
        });
        words.collect::<Vec<_>>().join(" ")
    });
    lines.map(|line| line + "\n").collect()
}

fn mask(before: &str, word: &str) -> String {
    let core = word.trim_matches(|letter: char| !letter.is_alphanumeric() && letter != '_');
    let digits = |mark: char| core.contains(mark) && core.chars().all(|c| c.is_ascii_digit() || c == mark);
    let hex = |length: usize| core.len() == length && core.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    let name = match (before, core) {
        _ if core.is_empty() => return word.to_owned(),
        _ if hex(36) => "[ID]",
        _ if hex(64) => "[SHA256]",
        _ if core.len() == 10 && digits('-') => "[DAY]",
        _ if core.len() == 8 && digits(':') => "[TIME]",
        ("version", _) => "[VERSION]",
        ("in" | "lost;" | "failed,", _) if digits('.') => "[SECONDS]",
        (_, _) if word.starts_with(char::is_numeric) && before.ends_with(".png,") => "[BYTES]",
        (_, core) if core == user() && !before.ends_with(':') => "[USER]",
        _ => return word.to_owned(),
    };
    word.replacen(core, name, 1)
}

#[test]
fn a_job_that_was_paused_and_an_image_that_was_tried_again_tell_their_story() {
    let sandbox = Sandbox::new();
    let (_coordinator, address) = coordinator(&sandbox);
    let run = |args: &[&str]| sandbox.run(&[args, &["--coordinator", &address]].concat());
    sandbox.write("list.txt", "red dots\nblue dots\ngreen dots\n");
    let submit = ["submit", "list.txt", "--size", "64x64", "--steps", "2", "--output", "out", "--seed", "7"];
    let job = run(&submit).ok().stdout.trim_end().to_owned();
    run(&["pause", &job, "--reason", "lunch"]).ok();
    run(&["priority", &job, "5"]).ok();
    let images = run(&["images", &job, "--json"]).ok().json_lines();
    // Somebody's file stands where the second picture belongs.
    let taken = sandbox.path("out").join(images[1]["object"].as_str().unwrap());
    std::fs::create_dir_all(taken.parent().unwrap()).unwrap();
    std::fs::write(&taken, "somebody's").unwrap();
    let _worker = worker(&sandbox, &address, "w");
    wait_until("the worker", || run(&["workers", "--json"]).ok().json_lines().len() == 1);
    run(&["resume", &job]).ok();
    assert_eq!(run(&["watch", &job, "--json"]).last_json()["state"], "failed");
    std::fs::remove_file(&taken).unwrap();
    run(&["retry", &job, "--failed", "--reason", "it is gone"]).ok();
    assert_eq!(run(&["watch", &job, "--json"]).ok().last_json()["state"], "succeeded");

    let tell = |subject: &str| run(&["history", subject]).ok().stdout;
    let (of_job, of_image, of_worker) = (tell(&job), tell(&format!("{job}/1")), tell("w"));
    assert_eq!(masked(&of_job), OF_JOB);
    assert_eq!(masked(&of_image), OF_IMAGE);
    assert_eq!(masked(&of_worker), OF_WORKER);

    // Without the coordinator, the database tells the same.
    let alone = |subject: &str| sandbox.run(&["history", subject]).ok().stdout;
    assert_eq!([alone(&job), alone(&format!("{job}/1")), alone("w")], [of_job, of_image, of_worker]);

    let newest = run(&["history", &job, "--limit", "2"]).ok().stdout;
    let lines: Vec<&str> = newest.lines().collect();
    assert_eq!((lines.len(), lines[1]), (5, "11 older events are not shown"), "{newest}");
    let all = run(&["history", &job, "--json"]).ok().json_lines();
    assert_eq!(all.len(), 13);
    assert_eq!((all[1]["kind"].as_str(), all[1]["reason"].as_str()), (Some("job_paused"), Some("lunch")));
    let limited = run(&["history", &job, "--json", "--limit", "2"]).ok();
    assert_eq!(
        (limited.json_lines(), limited.stderr.as_str()),
        (all[11..].to_vec(), "11 older events are not shown\n")
    );
}

const OF_JOB: &str = "\
job [ID]: list
[DAY] [TIME] UTC  [USER] submitted the job: 3 images in 1 shard, model sana-tiny, output [DIR]/out
[DAY] [TIME] UTC  [USER] paused the job: lunch
[DAY] [TIME] UTC  [USER] changed the priority of the job from 0 to 5
[DAY] [TIME] UTC  [USER] resumed the job
[DAY] [TIME] UTC  the job started
[DAY] [TIME] UTC  w took images 0 to 2 (attempt 1)
[DAY] [TIME] UTC  image 1 was given up on w (attempt 1): conflict: another file stands at 00000001-8.png in \
[DIR]/out: it is no PNG, JPEG or WebP file; move it away or choose another output, nothing was overwritten
[DAY] [TIME] UTC  w is done with images 0 to 2 (attempt 1)
[DAY] [TIME] UTC  the job failed: 2 images done, 1 failed
[DAY] [TIME] UTC  [USER] had 1 failed image tried again: it is gone
[DAY] [TIME] UTC  w took what is left of images 0 to 2 (attempt 2)
[DAY] [TIME] UTC  w is done with images 0 to 2 (attempt 2)
[DAY] [TIME] UTC  the job succeeded: 3 images done
succeeded: 3 of 3 images done, 0 failed, 0 open; 2 attempts, 0 lost; [SECONDS] device seconds on 1 worker
";
const OF_IMAGE: &str = "\
image 1 of job [ID]: \"blue dots\", seed 8, 64x64, 2 steps, guidance 4.5
[DAY] [TIME] UTC  [USER] submitted the job: 3 images in 1 shard, model sana-tiny, output [DIR]/out
[DAY] [TIME] UTC  [USER] paused the job: lunch
[DAY] [TIME] UTC  [USER] resumed the job
[DAY] [TIME] UTC  w took images 0 to 2 (attempt 1)
[DAY] [TIME] UTC  w could not render image 1 on cpu (attempt 1): conflict: another file stands at 00000001-8.png in \
[DIR]/out: it is no PNG, JPEG or WebP file; move it away or choose another output, nothing was overwritten
[DAY] [TIME] UTC  image 1 was given up on w (attempt 1): conflict: another file stands at 00000001-8.png in \
[DIR]/out: it is no PNG, JPEG or WebP file; move it away or choose another output, nothing was overwritten
[DAY] [TIME] UTC  w is done with images 0 to 2 (attempt 1)
[DAY] [TIME] UTC  [USER] had 1 failed image tried again: it is gone
[DAY] [TIME] UTC  w took what is left of images 0 to 2 (attempt 2)
[DAY] [TIME] UTC  w rendered image 1 on cpu in [SECONDS] s (attempt 2): 00000001-8.png, [BYTES] bytes, sha256 [SHA256]
[DAY] [TIME] UTC  w is done with images 0 to 2 (attempt 2)
done after 2 attempts, 1 error, 0 losses
";
const OF_WORKER: &str = "\
worker w
[DAY] [TIME] UTC  w connected with version [VERSION], with cpu (session [ID])
[DAY] [TIME] UTC  w took images 0 to 2 of job [ID] (attempt 1)
[DAY] [TIME] UTC  image 1 of job [ID] was given up on w (attempt 1): conflict: another file stands at 00000001-8.png in \
[DIR]/out: it is no PNG, JPEG or WebP file; move it away or choose another output, nothing was overwritten
[DAY] [TIME] UTC  w is done with images 0 to 2 of job [ID] (attempt 1)
[DAY] [TIME] UTC  w took what is left of images 0 to 2 of job [ID] (attempt 2)
[DAY] [TIME] UTC  w is done with images 0 to 2 of job [ID] (attempt 2)
1 session, 1 open; 2 leases: 2 done, 0 handed back, 0 lost, 0 taken away, 0 held; 3 images done, 0 failed, [SECONDS] \
device seconds; taken out 0 times
";

#[test]
fn an_unknown_name_is_a_mistake_with_a_hint() {
    let sandbox = Sandbox::new();
    sandbox.write("list.txt", "red dots\n");
    sandbox.run(&["render", "list.txt", "--size", "64x64", "--steps", "1", "--json"]).ok();
    let job = sandbox.run(&["jobs", "--json"]).ok().last_json()["job_id"].as_str().unwrap().to_owned();
    let hint = "\n\nhint: `sanafarm jobs` lists jobs, `sanafarm workers` connected workers; image 7 of a job is JOB/7\n";
    for (name, why) in [
        ("nobody".to_owned(), "no job, image, worker or session nobody".to_owned()),
        (format!("{job}/1"), format!("no image 1 of job {job}: its last is 0")),
    ] {
        let ended = sandbox.run(&["history", &name]);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
        assert_eq!(ended.stderr, format!("error: tell the history of {name}\n  caused by: {why}{hint}"));
    }
    // A `render` is a worker too.
    let told = sandbox.run(&["history", &job]).ok().stdout;
    assert!(told.contains("succeeded: 1 of 1 image done, 0 failed, 0 open; 1 attempt, 0 lost; "), "{told}");
}
