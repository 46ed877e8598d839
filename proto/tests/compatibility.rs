//! Coordinators and workers of neighbouring versions talk to each other: whatever the messages of the last release meant,
//! they mean still.
//!
//! `released.binpb` is what the last release spoke. After a release it is written anew:
//! `UPDATE_RELEASED=1 cargo nextest run --workspace -E 'test(nothing_that_was_released_has_another_meaning)'`.

#![expect(clippy::unwrap_used, reason = "what is unexpected fails the test")]

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

/// What may not change, by what it is called: `message sanafarm.v1.Job field 3` and so on.
type Meanings = BTreeMap<String, String>;

fn meanings(set: &FileDescriptorSet) -> Meanings {
    let mut meanings = Meanings::new();
    for file in set.file.iter().filter(|file| file.package().starts_with("sanafarm.")) {
        of_file(file, &mut meanings);
    }
    meanings
}

fn of_file(file: &FileDescriptorProto, meanings: &mut Meanings) {
    let package = file.package();
    file.message_type.iter().for_each(|message| of_message(package, message, meanings));
    file.enum_type.iter().for_each(|values| of_enum(package, values, meanings));
    for service in &file.service {
        for method in &service.method {
            let stream = |streams: bool| if streams { "stream " } else { "" };
            meanings.insert(
                format!("method {package}.{}.{}", service.name(), method.name()),
                format!(
                    "{}{} to {}{}",
                    stream(method.client_streaming()),
                    method.input_type(),
                    stream(method.server_streaming()),
                    method.output_type()
                ),
            );
        }
    }
}

fn of_message(scope: &str, message: &DescriptorProto, meanings: &mut Meanings) {
    let name = format!("{scope}.{}", message.name());
    meanings.insert(format!("message {name}"), String::new());
    for field in &message.field {
        // The name is of no matter on the wire, but of JSON and of whoever reads the code.
        let meaning = format!(
            "{} {:?} {:?} {} {}",
            field.name(),
            field.label.map(|label| Label::try_from(label).unwrap()),
            field.r#type.map(|kind| Type::try_from(kind).unwrap()),
            field.type_name(),
            if field.proto3_optional() || field.oneof_index.is_none() { "" } else { "of a oneof" },
        );
        meanings.insert(format!("message {name} field {}", field.number()), meaning);
    }
    for range in &message.reserved_range {
        for number in range.start()..range.end() {
            meanings.insert(format!("message {name} field {number}"), "reserved".to_owned());
        }
    }
    message.nested_type.iter().for_each(|inner| of_message(&name, inner, meanings));
    message.enum_type.iter().for_each(|values| of_enum(&name, values, meanings));
}

fn of_enum(scope: &str, values: &EnumDescriptorProto, meanings: &mut Meanings) {
    let name = format!("{scope}.{}", values.name());
    meanings.insert(format!("enum {name}"), String::new());
    for value in &values.value {
        meanings.insert(format!("enum {name} value {}", value.number()), value.name().to_owned());
    }
    for range in &values.reserved_range {
        for number in range.start()..=range.end() {
            meanings.insert(format!("enum {name} value {number}"), "reserved".to_owned());
        }
    }
}

/// What of `released` is gone or means something else in `now`. A field or a value may be given up when its number is reserved.
fn broken(released: &Meanings, now: &Meanings) -> Vec<String> {
    let mut broken = Vec::new();
    for (what, meant) in released {
        match now.get(what) {
            None => broken.push(format!("{what} is gone, and its number is not reserved")),
            Some(means) if means == "reserved" && meant != "reserved" => {}
            Some(means) if means != meant => broken.push(format!("{what} was `{meant}` and is `{means}`")),
            Some(_) => {}
        }
    }
    broken
}

fn now() -> FileDescriptorSet {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let v1 = folder.join("sanafarm/v1");
    let mut files: Vec<_> = std::fs::read_dir(&v1).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut set = protox::compile(files, [folder]).unwrap();
    set.file.iter_mut().for_each(|file| file.source_code_info = None);
    set
}

#[test]
fn nothing_that_was_released_has_another_meaning() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/released.binpb");
    let now = now();
    if std::env::var_os("UPDATE_RELEASED").is_some() {
        std::fs::write(&file, now.encode_to_vec()).unwrap();
    }
    let released = FileDescriptorSet::decode(&*std::fs::read(&file).unwrap()).unwrap();
    let broken = broken(&meanings(&released), &meanings(&now));
    assert!(broken.is_empty(), "workers of the last release would misunderstand:\n{}", broken.join("\n"));
}

/// The first message of that name, to be altered.
fn message<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut DescriptorProto {
    let messages = set.file.iter_mut().flat_map(|file| &mut file.message_type);
    messages.into_iter().find(|message| message.name() == name).unwrap()
}

/// Makes the messages of a next release.
type Alter = fn(&mut FileDescriptorSet);

#[test]
fn every_kind_of_break_is_found() {
    let released = meanings(&now());
    let breaks: [(&str, Alter); 6] = [
        ("message sanafarm.v1.Job field 1 is gone", |set| {
            message(set, "Job").field.retain(|field| field.number() != 1);
        }),
        ("message sanafarm.v1.Job field 1 was", |set| {
            let job = message(set, "Job");
            let first = job.field.iter_mut().find(|field| field.number() == 1).unwrap();
            first.set_type(Type::Double);
        }),
        ("message sanafarm.v1.Lease is gone", |set| {
            set.file
                .iter_mut()
                .for_each(|file| file.message_type.retain(|message| message.name() != "Lease"));
        }),
        ("method sanafarm.v1.WorkerService.LeaseShard is gone", |set| {
            let services = set.file.iter_mut().flat_map(|file| &mut file.service);
            services.for_each(|service| service.method.retain(|method| method.name() != "LeaseShard"));
        }),
        ("method sanafarm.v1.WorkerService.Follow was", |set| {
            let methods = set.file.iter_mut().flat_map(|file| &mut file.service).flat_map(|s| &mut s.method);
            methods.filter(|method| method.name() == "Follow").for_each(|m| m.client_streaming = Some(false));
        }),
        ("enum sanafarm.v1.JobState value 1 was", |set| {
            let enums = set.file.iter_mut().flat_map(|file| &mut file.enum_type);
            let states = enums.into_iter().find(|values| values.name() == "JobState").unwrap();
            states.value.iter_mut().find(|value| value.number() == 1).unwrap().name = Some("OTHER".into());
        }),
    ];
    for (told, alter) in breaks {
        let mut altered = now();
        alter(&mut altered);
        let broken = broken(&released, &meanings(&altered));
        assert!(broken.iter().any(|line| line.starts_with(told)), "{told}: {broken:?}");
    }
}

#[test]
fn a_field_may_be_given_up_when_its_number_is_reserved_and_others_may_come() {
    let released = meanings(&now());
    let mut altered = now();
    let job = message(&mut altered, "Job");
    let mut newer = job.field[0].clone();
    (newer.name, newer.number) = (Some("something_new".into()), Some(9999));
    let given_up = job.field.iter().position(|field| field.number() == 1).unwrap();
    job.field.remove(given_up);
    job.field.push(newer);
    job.reserved_range.push(prost_types::descriptor_proto::ReservedRange { start: Some(1), end: Some(2) });
    assert_eq!(broken(&released, &meanings(&altered)), Vec::<String>::new());
    // And its number is never given to another field.
    assert!(!broken(&meanings(&altered), &released).is_empty());
}
