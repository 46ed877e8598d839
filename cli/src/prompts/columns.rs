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
    /// `--drop-column`: neither used nor passed through.
    pub dropped: Vec<String>,
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
        let used = [&self.prompt, &self.id, &self.seed].into_iter().filter_map(|name| name.as_deref());
        used.chain(self.dropped.iter().map(String::as_str))
    }

    /// Whether the user wants this column left out.
    pub fn drops(&self, name: &str) -> bool {
        self.dropped.iter().any(|dropped| same(dropped, name))
    }
}

/// What becomes of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It says how the row is rendered.
    Field(Field),
    /// It is passed through to the manifest.
    Pass,
    /// It is left out.
    Drop,
}

/// For each of `names` what becomes of it. Case does not matter, but a name that is written exactly as known is
/// preferred.
pub fn assign(names: &[&str], chosen: &Chosen) -> Vec<Use> {
    let dropped = |name: &&str| if chosen.drops(name) { Use::Drop } else { Use::Pass };
    let mut uses: Vec<Use> = names.iter().map(dropped).collect();
    for (field, known) in KNOWN {
        let found = match chosen.column(field) {
            Some(name) => position(names, &uses, name),
            None => known.iter().find_map(|name| position(names, &uses, name)),
        };
        if let Some(index) = found {
            uses[index] = Use::Field(field);
        }
    }
    uses
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

fn position(names: &[&str], uses: &[Use], wanted: &str) -> Option<usize> {
    let free = |index: &usize| uses[*index] == Use::Pass;
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
