"""Action detection, whole: data, boxes, training, evaluation, drawing."""
