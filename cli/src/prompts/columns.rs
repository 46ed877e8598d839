//! Which column of a list says what.

/// What a column can say about a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// What to show.
    Prompt,
    /// What not to show.
    NegativePrompt,
    /// Seed of the row's first copy.
    Seed,
    /// Pixels.
    Width,
    /// Pixels.
    Height,
    /// Denoising steps.
    Steps,
    /// Classifier-free guidance scale.
    Guidance,
    /// The row's own name.
    Id,
}

/// Each field with the column names that it is known by, best first.
const KNOWN: [(Field, &[&str]); 8] = [
    (Field::Prompt, &["prompt", "text", "caption"]),
    (Field::NegativePrompt, &["negative_prompt"]),
    (Field::Seed, &["seed"]),
    (Field::Width, &["width"]),
    (Field::Height, &["height"]),
    (Field::Steps, &["steps"]),
    (Field::Guidance, &["guidance", "guidance_scale", "cfg"]),
    (Field::Id, &["id", "image_id"]),
];

/// Columns that the user named; the known names hold for the others.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    /// `--prompt-column`.
    pub prompt: Option<String>,
    /// `--id-column`.
    pub id: Option<String>,
    /// `--seed-column`.
    pub seed: Option<String>,
}

impl Chosen {
    fn column(&self, field: Field) -> Option<&str> {
        match field {
            Field::Prompt => self.prompt.as_deref(),
            Field::Id => self.id.as_deref(),
            Field::Seed => self.seed.as_deref(),
            Field::NegativePrompt | Field::Width | Field::Height | Field::Steps | Field::Guidance => None,
        }
    }

    /// All columns that the user named.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        [&self.prompt, &self.id, &self.seed].into_iter().filter_map(|name| name.as_deref())
    }
}

/// For each of `names` the field that it says; `None` for a column that is passed through. Case does not
/// matter, but a name that is written exactly as known is preferred.
pub fn assign(names: &[&str], chosen: &Chosen) -> Vec<Option<Field>> {
    let mut fields = vec![None; names.len()];
    for (field, known) in KNOWN {
        let found = match chosen.column(field) {
            Some(name) => position(names, &fields, name),
            None => known.iter().find_map(|name| position(names, &fields, name)),
        };
        if let Some(index) = found {
            fields[index] = Some(field);
        }
    }
    fields
}

/// Says that no column holds the prompt, and which columns there are.
pub fn missing_prompt(names: &[&str], chosen: &Chosen) -> String {
    match &chosen.prompt {
        Some(name) => missing(name, names),
        None => format!("no column `prompt`, `text` or `caption`; found {}", list(names)),
    }
}

/// Says that a column is missing, and which columns there are.
pub fn missing(name: &str, names: &[&str]) -> String {
    format!("no column `{name}`; found {}", list(names))
}

/// Whether `name` is one of `names`, whatever its case.
pub fn contains(names: &[&str], name: &str) -> bool {
    names.iter().any(|other| same(other, name))
}

fn position(names: &[&str], taken: &[Option<Field>], wanted: &str) -> Option<usize> {
    let free = |index: &usize| taken[*index].is_none();
    let exact = (0..names.len()).filter(free).find(|index| names[*index] == wanted);
    exact.or_else(|| (0..names.len()).filter(free).find(|index| same(names[*index], wanted)))
}

fn same(left: &str, right: &str) -> bool {
    left.trim().eq_ignore_ascii_case(right.trim())
}

/// At most a dozen names, so that a wrong delimiter does not fill the screen.
fn list(names: &[&str]) -> String {
    const SHOWN: usize = 12;
    if names.is_empty() {
        return "none".to_owned();
    }
    let mut text = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}
