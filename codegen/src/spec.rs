//! `config.json` → [`ossmith_plan::ModelSpec`].
