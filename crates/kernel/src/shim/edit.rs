//! Edits the source that evcxr writes for a cell: our store for variables and our reports of panics
//! and errors instead of evcxr's.
//!
//! The edits depend on the text that evcxr 0.22.0 generates. `Cargo.toml` allows no other version;
//! still, every edit checks that it finds what it expects, and a kernel runs [`CHECK`] when it
//! starts, which needs all of them. So a change of that text is an error that says what to
//! install, and never a cell that runs in another way.

use super::Result;

/// A cell that has everything that is edited. It runs when a kernel starts, which then looks for the
/// file [`CHECKED`].
pub const CHECK: &str = "/* the kernel's check */ Ok::<u8, String>(0)?";

/// The file in the work folder that says that everything was edited.
pub const CHECKED: &str = "checked";

/// The beginning of evcxr's variable store, and the hash of its text.
const STORE: &str = "mod evcxr_internal_runtime {";
const STORE_END: &str = "Box::into_raw(Box::new(VariableStore::new()))\n}\n";
const STORE_HASH: &str = "dd83a3850be19f07";

/// What runs after a panic in the cell.
const PANIC: &str = "    println!(\"EVCXR_PANIC_NOTIFICATION\");\n}";
const PANIC_EDITED: &str = "    cargo_kernel_cell::panicked();\n}";
/// The lines that surround the user's statements where panics are caught.
const CATCH: [&str; 2] = [
    "\nmatch std::panic::catch_unwind(\n  std::panic::AssertUnwindSafe(||{\n",
    "\nif std::panic::catch_unwind(||{\n",
];

/// The display of a last expression whose type has no display of its own.
const RESULT: &str = "evcxr_send_text_plain(&format!(";

/// The first way in which evcxr shows the value of the last expression.
const DISPLAY: &str = ").evcxr_display();";

/// The conversion of the errors behind `?`.
const ERROR: &str = "for EvcxrUserCodeError {";
const ERROR_END: &str = "println!(\"{}\", evcxr_internal_runtime::USER_ERROR_OCCURRED);";

/// The source of a cell after the edits.
#[derive(Debug)]
pub struct Edited {
    pub source: String,
    /// Whether there was everything that this module edits.
    pub all: bool,
}

/// Edits the source of a cell. No line number changes. With `fallback`, a value without a display of
/// its own is shown by ours, not by evcxr's second attempt, which has its own format.
///
/// # Errors
/// If evcxr generated something that this version does not know.
pub fn edit(source: &str, fallback: bool) -> Result<Edited> {
    let mut source = source.to_owned();
    let mut edits = 0;
    let catches = CATCH.iter().any(|text| source.contains(text));
    // The user's statements may contain the same text: the generated one comes after them.
    match source.rfind(PANIC) {
        Some(at) if catches => {
            source.replace_range(at..at + PANIC.len(), PANIC_EDITED);
            edits += 1;
        }
        _ if catches => return Err(unknown("the report of a panic")),
        _ => {}
    }
    // The last statement of the user is before the code that stores variables.
    let statements = source.rfind(PANIC_EDITED).unwrap_or(source.len());
    if let Some(at) = source[..statements].rfind(DISPLAY)
        && fallback
    {
        let ours = ").cargo_kernel_ref().evcxr_display(); use cargo_kernel_cell::display::*;";
        source.replace_range(at..at + DISPLAY.len(), ours);
        edits += 1;
    }
    if let Some(at) = source.rfind(RESULT) {
        source.replace_range(at..at + RESULT.len(), "cargo_kernel_cell::result(&format!(");
        edits += 1;
    }
    // And these come before them.
    if let Some(start) = source.find(STORE) {
        let end = source[start..]
            .find(STORE_END)
            .map(|i| start + i + STORE_END.len())
            .and_then(|last| Some(last + source[last..].find('}')? + 1))
            .ok_or_else(|| unknown("the store for variables"))?;
        let text = &source[start..end];
        let hash = blake3::hash(text.as_bytes()).to_hex();
        if hash[..16] != *STORE_HASH {
            return Err(unknown(&format!("the store for variables ({hash:.16})")));
        }
        let lines = "\n".repeat(text.matches('\n').count());
        let ours = format!("{STORE} pub use cargo_kernel_cell::store::*; {lines}}}");
        source.replace_range(start..end, &ours);
        edits += 1;
    }
    // evcxr has `eprintln!(FORMAT, error);` there, and a line for itself after it.
    if let Some(start) = source.find(ERROR) {
        let found = source[start..].find(ERROR_END).and_then(|i| {
            let end = start + i;
            let print = start + source[start..end].find("eprintln!(")?;
            let length = source[print..end].find(", error);")?;
            Some((print, length, end))
        });
        let (print, length, end) = found.ok_or_else(|| unknown("the conversion of errors"))?;
        let format = source[print + "eprintln!(".len()..print + length].to_owned();
        source.replace_range(end..end + ERROR_END.len(), "");
        source.replace_range(
            print..print + length + ", error);".len(),
            &format!("cargo_kernel_cell::failed(&format!({format}, error));"),
        );
        edits += 1;
    }
    Ok(Edited {
        source,
        all: edits == 4,
    })
}

/// What is said if [`CHECK`] ran without everything that is edited.
pub fn incomplete() -> String {
    unknown("a part of what every cell has")
}

fn unknown(what: &str) -> String {
    format!(
        "error: this kernel was made for evcxr 0.22.0, and {what} in the generated code is not as \
         it is there; install the kernel with the versions in its Cargo.lock, with which it was \
         tested: cargo install --locked --path FOLDER, where FOLDER has the kernel's sources"
    )
}

#[cfg(test)]
mod tests {
    use super::edit;

    /// The parts of a cell that are edited, as evcxr writes them.
    fn cell(statements: &str) -> String {
        format!(
            "struct P;\n            struct EvcxrUserCodeError {{}}\n            \
             impl<T: std::fmt::Display> From<T> for EvcxrUserCodeError {{\n                \
             fn from(error: T) -> Self {{\n                    eprintln!(\"{{}}\", error);\n\
             println!(\"{{}}\", evcxr_internal_runtime::USER_ERROR_OCCURRED);\n\
             EvcxrUserCodeError {{}}\n}}\n}}\n\
             #[unsafe(no_mangle)]\npub extern \"C\" fn run_user_code_1(\n\
             match std::panic::catch_unwind(\n  std::panic::AssertUnwindSafe(||{{\n\
             {statements}\n\
             }})) {{ \n  Ok(_) => {{}}\n  Err(_) => {{\n    println!(\"EVCXR_PANIC_NOTIFICATION\");\n}}}}\n\
             evcxr_variable_store\n}}\n"
        )
    }

    #[test]
    fn reports_are_replaced_and_the_user_s_text_is_not() {
        let statements = "println!(\"EVCXR_PANIC_NOTIFICATION\");\n// for EvcxrUserCodeError {";
        let source = cell(statements);
        let done = edit(&source, true).unwrap();
        // The store is not among it.
        assert!(!done.all);
        let edited = done.source;
        assert_eq!(edited.lines().count(), source.lines().count());
        assert!(edited.contains(statements));
        assert!(edited.contains("cargo_kernel_cell::failed(&format!(\"{}\", error));"));
        assert!(!edited.contains("USER_ERROR_OCCURRED"));
        assert!(edited.ends_with(
            "Err(_) => {\n    cargo_kernel_cell::panicked();\n}}\nevcxr_variable_store\n}\n"
        ));
    }

    #[test]
    fn other_text_than_that_of_the_known_version_is_refused() {
        let source = cell("1;");
        for (old, new) in [
            ("EVCXR_PANIC_NOTIFICATION", "OTHER"),
            ("eprintln!", "report!"),
            ("USER_ERROR_OCCURRED", "OTHER"),
        ] {
            let error = edit(&source.replace(old, new), true).unwrap_err();
            assert!(error.contains("install"), "{error}");
        }
        let store = format!("mod evcxr_internal_runtime {{\nother\n}}\n{source}");
        assert!(edit(&store, true).unwrap_err().contains("store"));
        // A cell without any of it, as evcxr writes one without statements.
        assert!(!edit("fn run_user_code_0() {}", true).unwrap().all);
    }
}
