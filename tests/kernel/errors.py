"""What goes wrong in a cell is shown as what it is, and what can be kept is kept."""

from session import ERROR, OPEN, Session

with Session() as k:
    k.run(OPEN)
    k.run("let kept = vec![1, 2, 3];")
    cell = k.run("kept.nosuch()", status="error")
    assert "nosuch" in cell.error and "E0599" in cell.error, cell.error

    cell = k.run("let lost = 1; kept[7]")
    assert cell.results[ERROR] == "panic", cell.results
    assert "panicked: index out of bounds" in cell.text and "in: kept[7]" in cell.text, cell.text
    assert "jp-RenderedText" in cell.results["text/html"]
    # Without the frames of a backtrace.
    assert not cell.printed["stderr"], cell.printed
    assert k.run("kept.len()").text == "3"
    k.run("lost", status="error")

    cell = k.run('let number: u32 = "<x>".parse()?;')
    assert cell.results[ERROR] == "error", cell.results
    assert cell.text == "error: invalid digit found in string", cell.text
    # An error of the crate reads as a sentence.
    cell = k.run("use invariances::candle_core::{DType, Device, Tensor};\nTensor::zeros((2, 3), DType::F32, &Device::Cpu)?.matmul(&Tensor::zeros((2, 3), DType::F32, &Device::Cpu)?)?;")
    assert cell.results[ERROR] == "error" and "shape mismatch" in cell.text, cell.results
    assert k.run("kept.len()").text == "3"

    cell = k.run('std::process::Command::new("kill").args(["-9", &std::process::id().to_string()]).status()?; std::thread::sleep(std::time::Duration::from_secs(60));', status="error")
    assert "SIGKILL" in cell.error, cell.error
    cell = k.run("1 + 1")
    assert cell.text == "2" and "variables of earlier cells are lost" in cell.printed["stdout"], cell.printed
    assert "lost" not in k.run("1 + 1").printed["stdout"]
    k.run("kept", status="error")
