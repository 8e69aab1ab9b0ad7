//! What was changed beside the configuration file.

use super::table::row;

/// What is in force of the configuration file and what is not.
pub(super) fn configuration(file: Option<&str>, changes: &[String], restart: &[String]) -> String {
    let mut text = match file {
        Some(file) => format!("file {file}\n"),
        None => "rvsd has no configuration file\n".to_owned(),
    };
    if changes.is_empty() {
        text.push_str("nothing was changed at run time\n");
    } else {
        text.push_str("changed at run time:\n");
        changes.iter().for_each(|line| row(&mut text, format_args!("  {line}\n")));
    }
    if !restart.is_empty() {
        row(&mut text, format_args!("needs a restart of rvsd: {}\n", restart.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_lists_what_is_not_as_the_file_says() {
        let text = configuration(Some("/f"), &["-C".into()], &["eal.mbufs".into()]);
        let expected = "file /f\nchanged at run time:\n  -C\nneeds a restart of rvsd: eal.mbufs\n";
        assert_eq!(text, expected);
        let text = configuration(None, &[], &[]);
        assert_eq!(text, "rvsd has no configuration file\nnothing was changed at run time\n");
    }
}
