//! What goes wrong with the mock model server, on demand.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Error,
    Reset,
    Cut,
    Freeze,
}

/// What goes wrong.
#[derive(Clone, Debug, Default)]
pub struct Fault {
    kinds: Vec<Kind>,
    percent: usize,
}

impl Fault {
    /// Of a query: `kind=KIND,..&percent=N`.
    pub fn of(query: &str) -> Result<Self, String> {
        let mut fault = Self { percent: 100, ..Self::default() };
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match key {
                "percent" => fault.percent = value.parse().map_err(|e| format!("percent: {e}"))?,
                "kind" => {
                    fault.kinds =
                        value.split(',').filter_map(|name| kind(name).transpose()).collect::<Result<_, _>>()?
                }
                _ => return Err(format!("{key}: unknown")),
            }
        }
        Ok(fault)
    }

    /// What happens to a request; spread evenly over a hundred.
    pub fn draw(&self, number: usize) -> Option<Kind> {
        if self.kinds.is_empty() || number * 37 % 100 >= self.percent {
            return None;
        }
        self.kinds.get(number / 7 % self.kinds.len()).copied()
    }

    /// Whether nothing is answered at all.
    pub fn frozen(&self) -> bool {
        self.percent >= 100 && self.kinds == [Kind::Freeze]
    }
}

fn kind(name: &str) -> Result<Option<Kind>, String> {
    Ok(Some(match name {
        "none" => return Ok(None),
        "error" => Kind::Error,
        "reset" => Kind::Reset,
        "cut" => Kind::Cut,
        "freeze" => Kind::Freeze,
        _ => return Err(format!("kind: {name}: must be none, error, reset, cut or freeze")),
    }))
}
